"""Reach a verdict on a comparison: the sentence on top, and the setting to use."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from sparselora.report import formats
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.analysis.statistics import MIN_SEEDS

MAX_DROP = 1.0
"""Points of accuracy that the sentence on top allows, where nothing else is asked for."""
NO_PREDICTIONS = "without an interval, since predictions on the same examples are missing"
_MAX_SEEDS = 100
"""More are not suggested: the groups are then what limits the interval."""


@dataclass(frozen=True)
class Recommendation:
    """Hold the fastest setting that is shown to lose little enough, or the reason why there is none."""

    row: dict[Any, Any] | None
    reason: str


def recommend(comparison: Comparison, max_drop: float) -> Recommendation:
    """Choose the fastest setting that loses at most `max_drop` points, with 95 % confidence.

    That is: the lower end of the 95 % interval of its paired difference to plain LoRA lies above
    −`max_drop`; its speed-up lies above 1 by its whole interval; and it is faster than plain LoRA by this
    project's own dense path. Each setting is judged for itself: among very many, one can pass by luck.
    """
    table = comparison.table
    sparse = table[~table["is_dense"].astype(bool)]
    if comparison.dense is None:
        return _none("there is no run of plain LoRA (experiment=dense) to compare with")
    if sparse.empty:
        return _none("there are only runs of plain LoRA")
    if sparse["speedup"].isna().all():
        return _none("no run was timed (measure=accuracy); run the settings with timing on")
    faster = sparse[sparse["speedup_low"] > 1.0]
    if faster.empty:
        return _none("no setting is faster than stock LoRA by its whole interval")
    own = comparison.dense["speedup"]
    if not pd.isna(own):
        faster = faster[faster["speedup"] > own]
        if faster.empty:
            return _none(f"plain LoRA by our dense path is as fast, {own:.2f} ×")
    shown = faster[faster["delta_low"] >= -max_drop].sort_values("speedup", ascending=False)
    if len(shown):
        return Recommendation(shown.to_dict("records")[0], "")
    return _none(_why_thin(faster, max_drop))


def _none(reason: str) -> Recommendation:
    return Recommendation(None, reason)


def _why_thin(faster: pd.DataFrame, max_drop: float) -> str:
    by_loss = faster.sort_values("delta_points", ascending=False)
    least = by_loss.to_dict("records")[0]
    if pd.isna(least["delta_points"]):
        return "no seed has both a sparse run and a run of plain LoRA"
    open_ones = by_loss[~(by_loss["delta_high"] < -max_drop)]
    if open_ones.empty:
        ends = (-least[name] for name in ("delta_points", "delta_high", "delta_low"))
        return (
            f"each faster setting is shown to lose more; the least, {least['setting']}, loses "
            f"{formats.with_interval(*ends, form='{:.2f}', unit=' points')}"
        )
    # The fastest that is good enough on average; where none is, the one that comes nearest.
    hopeful = open_ones[open_ones["delta_points"] > -max_drop]
    hopeful = hopeful.sort_values("speedup", ascending=False)
    row = (open_ones if hopeful.empty else hopeful).to_dict("records")[0]
    seeds = int(row["paired_seeds"])
    name, gap = row["setting"], row["delta_points"]
    if pd.isna(row["delta_low"]):
        why = (
            f"an interval takes {MIN_SEEDS}, {MIN_SEEDS - seeds} more"
            if seeds < MIN_SEEDS
            else NO_PREDICTIONS
        )
        return (
            f"the data is too thin: {name} comes out {gap:+.2f} points on {seeds} paired "
            f"seed{'s' * (seeds != 1)}; {why}"
        )
    more = more_seeds(gap, row["delta_low"], seeds, max_drop) if len(hopeful) else None
    ends = (row[key] for key in ("delta_points", "delta_low", "delta_high"))
    found = formats.with_interval(*ends, form="{:+.2f}", unit=" points")
    advice = (
        f"about {more} more seeds would settle it, were all the spread between seeds"
        if more is not None
        else "more seeds alone will hardly settle it; more validation examples might"
        if len(hopeful)
        else f"that is over {max_drop:g} on average, though not by its whole interval"
    )
    return f"the data is too thin: {name} comes out {found} on {seeds} seeds; {advice}"


def more_seeds(gap: float, low: float, seeds: int, max_drop: float) -> int | None:
    """Return how many more seeds bring the interval's lower end above −`max_drop`; None beyond 100.

    Were all its width the seeds', it would shrink as Student's t with n − 1 degrees of freedom does over
    the root of n; the part that is the groups' does not shrink, so this is the least.
    """

    def width(count: int) -> float:
        return float(stdtrit(count - 1, 0.975)) / math.sqrt(count)

    share = (gap + max_drop) / (gap - low) * width(seeds)
    enough = (more for more in range(1, _MAX_SEEDS + 1) if width(seeds + more) <= share)
    return next(enough, None)


def headline(comparison: Comparison, max_drop: float = MAX_DROP) -> str:
    """Return the verdict on a comparison, in a sentence."""
    found = recommend(comparison, max_drop)
    if found.row is not None:
        return describe(found.row)
    timed = comparison.table[
        ~comparison.table["is_dense"].astype(bool) & comparison.table["speedup"].notna()
    ]
    fastest = timed.sort_values("speedup", ascending=False).to_dict("records")
    text = (
        f"No setting is shown to be faster than LoRA and to lose at most {max_drop:g} "
        f"point{'s' * (max_drop != 1)}: {found.reason}."
    )
    return f"{text} Fastest: {describe(fastest[0])}" if fastest else text


def describe(row: dict[Any, Any]) -> str:
    """Describe a setting: speed-up, accuracy against plain LoRA, share of the bound, whole run."""
    ends = (row[name] for name in ("speedup", "speedup_low", "speedup_high"))
    speedup = formats.with_interval(*ends, form="{:.2f}", unit=" × the speed of stock LoRA")
    text = f"{row['setting']}: {speedup}"
    if not pd.isna(row["delta_points"]):
        seeds = int(row["paired_seeds"])
        ends = (row[name] for name in ("delta_points", "delta_low", "delta_high"))
        text += f", {formats.with_interval(*ends, form='{:+.2f}', unit=' points')}"
        text += f" on {seeds} seed{'s' * (seeds != 1)}"
        if pd.isna(row["delta_low"]):
            text += ", too few for a claim" if seeds < MIN_SEEDS else f", {NO_PREDICTIONS}"
    if not pd.isna(row["efficiency"]):
        text += f"; {row['efficiency']:.0%} of what the FLOPs allow"
    if not pd.isna(row["run_speedup"]):
        text += f"; the whole run {row['run_speedup']:.2f} ×"
    if row["unstable"]:
        text += "; its timing was unstable: time it again"
    return text + "."
