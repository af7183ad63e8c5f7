"""Make the rows of a comparison: the figures of each setting, from its runs."""

import shlex
from typing import Any

import numpy as np
import pandas as pd

from sparselora.report.analysis.statistics import pooled_ratio

SETTING_COLUMNS = {
    "setting": "short name; its configuration stands in `config`",
    "experiment": "named setting, where it is one, to the letter",
    "seeds": "completed runs behind the means, each of another seed",
    "accuracy": "mean over seeds, share of validation examples, after the last step",
    "accuracy_low": "95 % interval over groups and seeds; none with fewer than 3 seeds",
    "accuracy_high": "",
    "delta_points": "accuracy less that of plain LoRA, paired by seed, in points (1/100)",
    "delta_low": "its 95 % interval over groups and seeds; none with fewer than 3 paired seeds",
    "delta_high": "",
    "paired_seeds": "seeds that both have",
    "is_best": "whether it is the most accurate, of those with 3 seeds where there are any",
    "as_good_as_best": "whether the data cannot tell it from that one; none with < 3 seeds",
    "f1": "mean over seeds",
    "loss": "mean over seeds, nats per example",
    "ms_per_step": "stock LoRA's median ms/step over this table's runs, over `speedup`",
    "speedup": "stock PEFT LoRA's step over this one, geometric mean over seeds",
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


def figures(runs: pd.DataFrame, reference_ms: float | None) -> dict[str, Any]:
    """Return the figures of one setting's row that need no look at other settings.

    Args:
        runs: of the setting, which differ in their seed alone.
        reference_ms: stock PEFT LoRA's ms/step; None where no run was timed.
    """
    last = runs.iloc[-1]
    row: dict[str, Any] = {
        "experiment": None if pd.isna(last["experiment"]) else str(last["experiment"]),
        "seeds": len(runs),
        "unstable": int(runs["timing_stable"].eq(False).fillna(False).sum()),
        "gflops": mean(runs["sparse_flops"].fillna(runs["dense_flops"])) / 1e9,
        "command": command(last),
        "config": last["setting"],
    }
    for name in ("accuracy", "f1", "loss", "efficiency", "bound"):
        row[name] = mean(runs[name])
    whole = runs["run_speedup"]
    row["run_speedup"] = float(np.exp(np.log(whole[whole > 0]).mean()))
    for name in ("realised_sparsity", "trained_parameters", "svd_rank", "ffn_sparsity"):
        row[name] = mean(runs[name])
    for name in ("step_memory_mb", "dense_step_memory_mb"):
        row[name] = float(runs[name].median())
    for name in ("schedule", "estimator", "compensation"):
        row[name] = None if pd.isna(last[name]) else str(last[name])
    ends = runs[["speedup", "speedup_low", "speedup_high"]]
    timed = runs[(ends > 0).all(axis=1)]
    if len(timed):
        ratio, low, high = pooled_ratio(
            *(timed[name].to_list() for name in ("speedup", "speedup_low", "speedup_high"))
        )
        row |= {"speedup": ratio, "speedup_low": low, "speedup_high": high}
        row["ms_per_step"] = None if reference_ms is None else reference_ms / ratio
    return row


def difference(runs: pd.DataFrame, plain: pd.DataFrame) -> dict[str, Any]:
    """Return the mean difference in accuracy to plain LoRA, paired by seed; empty without a pair."""
    gaps = (runs.set_index("seed")["accuracy"] - plain.set_index("seed")["accuracy"]).dropna()
    return {"delta_points": points(mean(gaps)), "paired_seeds": len(gaps)} if len(gaps) else {}


def command(run: Any) -> str | None:
    """Return the command that runs a record's setting again; None where the record does not say."""
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


def distinct_names(groups: list[tuple[str, pd.DataFrame]]) -> list[str]:
    """Return a name for each setting, no two of them alike.

    Args:
        groups: key and runs of each setting.
    """
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


def front(table: pd.DataFrame) -> list[bool]:
    """Return for each row whether no other is both as accurate and as fast."""
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


def points(share: float | None) -> float | None:
    """Return a share in points, hundredths; None where there is none."""
    return None if share is None else share * 100


def mean(values: pd.Series) -> float:
    """Return the mean of a column, missing values left out."""
    return float(values.astype("float64").mean())
