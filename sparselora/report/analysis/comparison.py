"""Group settings that may be ranked against each other, a row for all seeds of a setting.

One table, a `Comparison`, holds what shares model, data, LoRA, budget and device: accuracies of two
budgets, or times of two devices, are never ranked together.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sparselora.report.analysis.predictions import Predictions, limited_runs, predictions_of
from sparselora.report.analysis.rows import (
    SETTING_COLUMNS,
    difference,
    distinct_names,
    figures,
    front,
    points,
)
from sparselora.report.analysis.statistics import MIN_SEEDS, Bootstrap, Estimate, bootstrap_of
from sparselora.report.loading.load import flatten
from sparselora.report.loading.usable import family, is_usable, where


@dataclass(frozen=True)
class Comparison:
    """Hold the settings that may be ranked against each other."""

    model: str
    data: str
    device: str
    shared: Mapping[str, Any]
    """What else they have in common: `task`, `model`, `data`, `lora` and `train` of the config."""
    table: pd.DataFrame
    """A row a setting, `SETTING_COLUMNS`; fastest first where times are known, else by accuracy."""
    runs: pd.DataFrame
    """The completed runs behind it."""
    reference_ms: float | None
    """Stock PEFT LoRA's median ms/step."""
    predictions: Mapping[tuple[str, int], Predictions]
    """By setting (the `config` of a row) and seed; runs without predictions are left out."""
    limited: pd.DataFrame
    """Runs whose predictions give no interval: `folder`, and why in `problem`."""
    budget: str = ""
    """What sets it apart from others of its model, data and device, where there are any."""

    @property
    def title(self) -> str:
        """Return the heading of the table: model, data, device, and budget where others differ."""
        more = f", {self.budget}" if self.budget else ""
        return f"{self.model} on {self.data}, {self.device}{more}"

    @property
    def dense(self) -> dict[Any, Any] | None:
        """Return the row of plain LoRA that differences are taken to; None where none ran."""
        rows = self.table[self.table["is_reference"].astype(bool)].to_dict("records")
        return rows[0] if rows else None

    def named(self, experiment: str) -> dict[Any, Any] | None:
        """Return the row of a named setting; None where it was not run."""
        rows = self.table[self.table["experiment"].eq(experiment).fillna(False)].to_dict("records")
        return rows[0] if rows else None


def compare(records: pd.DataFrame) -> list[Comparison]:
    """Return the comparisons that completed runs allow, the largest first.

    Used are runs with an accuracy, a configuration and a seed. Of two runs of one setting and seed the
    later one counts. Threads belong to the device: times on one and on two are not ranked together.
    """
    usable = records[is_usable(records)].copy()
    usable["seed"] = usable["seed"].astype("int64")
    usable["family"] = [family(key) for key in usable["pairing"]]
    usable["where"] = where(usable)
    usable = usable.sort_values("started", kind="stable", na_position="first")
    usable = usable.drop_duplicates(["family", "where", "setting", "seed"], keep="last")
    groups = usable.groupby(["family", "where"], sort=False)
    found = [_comparison(str(shared), str(place), runs) for (shared, place), runs in groups]
    return _with_budgets(sorted(found, key=lambda comparison: -len(comparison.runs)))


def _with_budgets(comparisons: list[Comparison]) -> list[Comparison]:
    """Name what comparisons of one title differ in."""
    titles = [comparison.title for comparison in comparisons]
    named = []
    for comparison, title in zip(comparisons, titles, strict=True):
        alike = [each for each, other in zip(comparisons, titles, strict=True) if other == title]
        flat = [flatten(dict(each.shared), "config") for each in alike]
        own = flatten(dict(comparison.shared), "config")
        keys = [key for key in own if len({repr(each.get(key)) for each in flat}) > 1]
        budget = ", ".join(f"{key.removeprefix('config.')}={own[key]}" for key in keys[:3])
        named.append(replace(comparison, budget=budget))
    return named


def _comparison(shared: str, device: str, runs: pd.DataFrame) -> Comparison:
    references = runs["dense_reference_ms"].dropna()
    reference_ms = float(references.median()) if len(references) else None
    predictions, limited = predictions_of(runs)
    bootstrap = bootstrap_of(predictions)
    groups = [(str(key), group) for key, group in runs.groupby("setting", sort=False)]
    paired: dict[str, dict[int, Predictions]] = {key: {} for key, _ in groups}
    for (key, seed), each in predictions.items():
        if bootstrap is not None and bootstrap.fits(each):
            paired[key][seed] = each
        else:
            limited[key, seed] = (
                "no interval: its predictions are of other examples than most runs'"
            )
    plain = set(runs.loc[runs["sparse_steps"].eq(0).fillna(False), "setting"])
    reference = _reference(runs[runs["setting"].isin(plain)])
    sure = [each for each in groups if len(paired[each[0]]) >= MIN_SEEDS]
    best = max(sure or groups, key=lambda each: float(each[1]["accuracy"].mean()))[0]
    rows = []
    for (key, group), name in zip(groups, distinct_names(groups), strict=True):
        row: dict[str, Any] = dict.fromkeys(SETTING_COLUMNS)
        row |= {"setting": name, "is_dense": key in plain, "is_reference": key == reference}
        row["is_best"] = key == best
        row |= figures(group, reference_ms)
        if key != reference and reference is not None:
            row |= difference(group, runs[runs["setting"].eq(reference)])
        if bootstrap is not None:
            row |= _intervals(bootstrap, paired, key, best, reference, row)
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(SETTING_COLUMNS))
    table["on_front"] = front(table)
    keys = ["ms_per_step"] if table["ms_per_step"].notna().any() else []
    table = table.sort_values(
        [*keys, "accuracy"], ascending=[True] * len(keys) + [False], kind="stable"
    )
    return Comparison(
        model=_model(runs, json.loads(shared)),
        data=str(runs["data"].iloc[0]),
        device=device,
        shared=json.loads(shared),
        table=table.reset_index(drop=True),
        runs=runs,
        reference_ms=reference_ms,
        predictions=predictions,
        limited=limited_runs(runs, limited),
    )


def _intervals(
    bootstrap: Bootstrap,
    paired: Mapping[str, Mapping[int, Predictions]],
    key: str,
    best: str,
    reference: str | None,
    row: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a row's intervals of accuracy; only those whose seeds are the ones of its means."""
    own = paired[key]
    found: dict[str, Any] = {}
    if len(own) == row["seeds"]:
        mean = bootstrap.mean(list(own.values()))
        found |= {"accuracy_low": mean.low, "accuracy_high": mean.high}
    to_dense = bootstrap.difference(own, paired.get(reference or "", {}))
    if to_dense is not None and to_dense.seeds == row["paired_seeds"]:
        found |= {"delta_low": points(to_dense.low), "delta_high": points(to_dense.high)}
    to_best = bootstrap.difference(own, paired[best])
    found["as_good_as_best"] = True if key == best else _holds_zero(to_best)
    return found


def _model(runs: pd.DataFrame, shared: Mapping[str, Any]) -> str:
    name, config = str(runs["model"].iloc[0]), shared.get("model")
    quantization = config.get("quantization") if isinstance(config, dict) else None
    return name if quantization in (None, "none") else f"{name} ({quantization})"


def _reference(plain: pd.DataFrame) -> str | None:
    # The named `dense` where it is there, else the plain LoRA with most seeds.
    if plain.empty:
        return None
    named = plain[plain["experiment"].eq("dense").fillna(False)]
    counts = (plain if named.empty else named)["setting"].value_counts(sort=False)
    return str(counts.idxmax())


def _holds_zero(estimate: Estimate | None) -> bool | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.low <= 0.0 <= estimate.high
