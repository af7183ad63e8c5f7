"""Runs → settings: a row for all runs that differ in their seed alone, in tables that may be ranked.

One table, a `Comparison`, holds what shares model, data, LoRA, budget and device: accuracies of two
budgets, or times of two devices, are never ranked together.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from sparselora.report.analysis.predictions import answers_of, bootstrap_of, limited_runs
from sparselora.report.analysis.statistics import MIN_SEEDS, Answers, Estimate, pooled_ratio
from sparselora.report.loading.load import flatten
from sparselora.report.loading.usable import family, is_usable, where

SETTING_COLUMNS = {
    "setting": "short name; its configuration stands in `config`",
    "experiment": "named setting, where it is one, to the letter",
    "seeds": "completed runs behind the means, each of another seed",
    "accuracy": "mean over seeds, share of validation lines, after the last step",
    "accuracy_low": "95 % interval over films and seeds; none with fewer than 3 seeds",
    "accuracy_high": "",
    "delta_points": "accuracy less that of plain LoRA, paired by seed, in points (1/100)",
    "delta_low": "its 95 % interval over films and seeds; none with fewer than 3 paired seeds",
    "delta_high": "",
    "paired_seeds": "seeds that both have",
    "is_best": "whether it is the most accurate, of those with 3 seeds where there are any",
    "as_good_as_best": "whether the data cannot tell it from that one; none with < 3 seeds",
    "f1": "mean over seeds",
    "loss": "mean over seeds, nats per line",
    "ms_per_step": "stock LoRA's median ms/step over this table's runs, over `speedup`",
    "speedup": "over stock PEFT LoRA, geometric mean over seeds",
    "speedup_low": "its 95 % interval",
    "speedup_high": "",
    "run_speedup": "geometric mean, of the whole run: calibration and dense steps included",
    "bound": "speed-up that the counted FLOPs allow",
    "efficiency": "(our dense over sparse) over bound",
    "unstable": "runs whose control, stock against itself, strayed from 1",
    "realised_sparsity": "share of FFN channels left out in sparse steps, counted, mean over layers",
    "step_memory_mb": "peak of one step, 10⁶ bytes, median over seeds",
    "dense_step_memory_mb": "the same of stock PEFT LoRA",
    "gflops": "10⁹ FLOPs of a mean step",
    "trained_parameters": "number",
    "svd_rank": "rank of the estimate",
    "ffn_sparsity": "the target, as configured",
    "schedule": "",
    "estimator": "",
    "compensation": "",
    "is_dense": "whether it is plain LoRA",
    "is_reference": "whether it is the plain LoRA that differences are taken to",
    "on_front": "whether no other setting is both as accurate and as fast (point estimates)",
    "command": "what runs it again; none where the record does not say",
    "config": "the whole configuration but the seed, JSON",
}
"""Columns of `Comparison.table`, and what they hold."""


@dataclass(frozen=True)
class Comparison:
    """The settings that may be ranked against each other."""

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
    answers: Mapping[tuple[str, int], Answers]
    """By setting (the `config` of a row) and seed; runs without predictions are left out."""
    limited: pd.DataFrame
    """Runs whose predictions give no interval: `folder`, and why in `problem`."""
    budget: str = ""
    """What sets it apart from others of its model, data and device, where there are any."""

    @property
    def title(self) -> str:
        more = f", {self.budget}" if self.budget else ""
        return f"{self.model} on {self.data}, {self.device}{more}"

    @property
    def dense(self) -> dict[Any, Any] | None:
        """The row of plain LoRA that differences are taken to."""
        rows = self.table[self.table["is_reference"].astype(bool)].to_dict("records")
        return rows[0] if rows else None

    def named(self, experiment: str) -> dict[Any, Any] | None:
        """The row of a named setting."""
        rows = self.table[self.table["experiment"].eq(experiment).fillna(False)].to_dict("records")
        return rows[0] if rows else None


def compare(records: pd.DataFrame) -> list[Comparison]:
    """Completed runs with an accuracy, a configuration and a seed → comparisons, the largest first.

    Of two runs of one setting and seed the later one counts. Threads belong to the device: times on
    one and on two are not ranked together.
    """
    usable = records[is_usable(records)].copy()
    usable["seed"] = usable["seed"].astype("int64")
    usable["family"] = [family(key) for key in usable["pairing"]]
    usable["where"] = where(usable)
    usable = usable.sort_values("started", kind="stable", na_position="first")
    usable = usable.drop_duplicates(["family", "where", "setting", "seed"], keep="last")
    groups = usable.groupby(["family", "where"], sort=False)
    found = [_comparison(str(shared), str(place), runs) for (shared, place), runs in groups]
    return _told_apart(sorted(found, key=lambda comparison: -len(comparison.runs)))


def _told_apart(comparisons: list[Comparison]) -> list[Comparison]:
    """Those of one title with what else they differ in."""
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
    reference = float(references.median()) if len(references) else None
    everything, limited = answers_of(runs)
    bootstrap = bootstrap_of(everything)
    answers = {
        key: each
        for key, each in everything.items()
        if bootstrap is not None and bootstrap.fits(each)
    }
    for other in everything.keys() - answers.keys():
        limited[other] = "no interval: its predictions are of other lines than most runs'"
    plain = set(runs.loc[runs["sparse_steps"].eq(0).fillna(False), "setting"])
    reference_key = _reference(runs[runs["setting"].isin(plain)])
    groups = [(str(key), group) for key, group in runs.groupby("setting", sort=False)]
    names = _distinct(groups)
    answered: dict[str, dict[int, Answers]] = {key: {} for key, _ in groups}
    for (key, seed), each in answers.items():
        answered[key][seed] = each
    sure = [each for each in groups if len(answered[each[0]]) >= MIN_SEEDS]
    best = max(sure or groups, key=lambda each: float(each[1]["accuracy"].mean()))[0]
    rows = []
    for (key, group), name in zip(groups, names, strict=True):
        row: dict[str, Any] = dict.fromkeys(SETTING_COLUMNS)
        row |= {"setting": name, "is_dense": key in plain, "is_reference": key == reference_key}
        row["is_best"] = key == best
        row |= _plain_figures(group, reference)
        if bootstrap is not None and len(answered[key]) == len(group):
            mean = bootstrap.mean(list(answered[key].values()))
            row |= {"accuracy_low": mean.low, "accuracy_high": mean.high}
        if key != reference_key and reference_key is not None:
            row |= _difference(group, runs[runs["setting"].eq(reference_key)])
        if bootstrap is not None:
            to_dense = bootstrap.difference(answered[key], answered.get(reference_key or "", {}))
            if to_dense is not None and to_dense.seeds == row["paired_seeds"]:
                row |= {"delta_low": _points(to_dense.low), "delta_high": _points(to_dense.high)}
            to_best = bootstrap.difference(answered[key], answered[best])
            row["as_good_as_best"] = True if key == best else _holds_zero(to_best)
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(SETTING_COLUMNS))
    table["on_front"] = _front(table)
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
        reference_ms=reference,
        answers=everything,
        limited=limited_runs(runs, limited),
    )


def _model(runs: pd.DataFrame, shared: Mapping[str, Any]) -> str:
    name, config = str(runs["model"].iloc[0]), shared.get("model")
    quantization = config.get("quantization") if isinstance(config, dict) else None
    return name if quantization in (None, "none") else f"{name} ({quantization})"


def _plain_figures(group: pd.DataFrame, reference: float | None) -> dict[str, Any]:
    last = group.iloc[-1]
    row: dict[str, Any] = {
        "experiment": None if pd.isna(last["experiment"]) else str(last["experiment"]),
        "seeds": len(group),
        "unstable": int(group["timing_stable"].eq(False).fillna(False).sum()),
        "gflops": _mean(group["sparse_flops"].fillna(group["dense_flops"])) / 1e9,
        "command": command(last),
        "config": last["setting"],
    }
    for name in ("accuracy", "f1", "loss", "efficiency", "bound"):
        row[name] = _mean(group[name])
    runs = group["run_speedup"]
    row["run_speedup"] = float(np.exp(np.log(runs[runs > 0]).mean()))
    for name in ("realised_sparsity", "trained_parameters", "svd_rank", "ffn_sparsity"):
        row[name] = _mean(group[name])
    for name in ("step_memory_mb", "dense_step_memory_mb"):
        row[name] = float(group[name].median())
    for name in ("schedule", "estimator", "compensation"):
        row[name] = None if pd.isna(last[name]) else str(last[name])
    ends = group[["speedup", "speedup_low", "speedup_high"]]
    timed = group[(ends > 0).all(axis=1)]
    if len(timed):
        ratio, low, high = pooled_ratio(
            *(timed[name].to_list() for name in ("speedup", "speedup_low", "speedup_high"))
        )
        row |= {"speedup": ratio, "speedup_low": low, "speedup_high": high}
        row["ms_per_step"] = None if reference is None else reference / ratio
    return row


def _reference(plain: pd.DataFrame) -> str | None:
    # The named `dense` where it is there, else the plain LoRA with most seeds.
    if plain.empty:
        return None
    named = plain[plain["experiment"].eq("dense").fillna(False)]
    counts = (plain if named.empty else named)["setting"].value_counts(sort=False)
    return str(counts.idxmax())


def _difference(group: pd.DataFrame, plain: pd.DataFrame) -> dict[str, Any]:
    gaps = (group.set_index("seed")["accuracy"] - plain.set_index("seed")["accuracy"]).dropna()
    return {"delta_points": _points(_mean(gaps)), "paired_seeds": len(gaps)} if len(gaps) else {}


def command(run: Any) -> str | None:
    """Return the line that runs a record's setting again, whatever characters its values hold."""
    if not isinstance(run["overrides"], list):
        return None
    overrides = [str(each) for each in run["overrides"]]
    flags = run.get("config_flags")
    flags = list(map(str, flags)) if isinstance(flags, list) else []
    sweeps = [each for each in overrides if each.startswith("+sweep=")]
    if sweeps and not flags:
        # A sweep of ours sets nothing but what is swept, and that stands beside it, by value.
        overrides = [each for each in overrides if each not in sweeps]
    elif sweeps:
        overrides.append("hydra.mode=RUN")
    return shlex.join(["python", "-m", "sparselora.run", *flags, *overrides])


def _distinct(groups: list[tuple[str, pd.DataFrame]]) -> list[str]:
    # A label says what shapes sparsity; where two settings share one, overrides tell them apart.
    labels = [str(group["label"].iloc[-1]) for _, group in groups]
    names = []
    for label, (_, group) in zip(labels, groups, strict=True):
        overrides = group["overrides"].iloc[-1]
        if labels.count(label) > 1 and isinstance(overrides, list):
            rest = [str(each) for each in overrides if not str(each).startswith("seed=")]
            label = " ".join([label, *rest])
        names.append(label)
    counts: dict[str, int] = {}
    for index, name in enumerate(names):
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            names[index] = f"{name} ({counts[name]})"
    return names


def _front(table: pd.DataFrame) -> list[bool]:
    rows = table[["ms_per_step", "accuracy"]].to_numpy(dtype=float)
    return [
        bool(
            np.isfinite(row).all()
            and not any(
                other[0] <= row[0] and other[1] >= row[1] and (other != row).any() for other in rows
            )
        )
        for row in rows
    ]


def _holds_zero(estimate: Estimate | None) -> bool | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.low <= 0.0 <= estimate.high


def _points(share: float | None) -> float | None:
    return None if share is None else share * 100


def _mean(values: pd.Series) -> float:
    return float(values.astype("float64").mean())
