"""Records as runs leave them, with made-up figures, for the report's tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LINES, FILMS, STEPS = 400, 40, 60
DENSE, OPTIMIZED, FALLBACK = "dense", "optimized", "fallback"
ACCURACIES: Mapping[str, float] = {DENSE: 0.80, OPTIMIZED: 0.77, FALLBACK: 0.795}
SPEEDUPS: Mapping[str, float] = {DENSE: 1.1, OPTIMIZED: 1.8, FALLBACK: 1.6}


def run(
    folder: Path,
    label: str = DENSE,
    seed: int = 1,
    *,
    experiment: str | None = None,
    accuracy: float | None = None,
    speedup: float | None = None,
    svd_rank: int | None = 4,
    ffn_sparsity: float = 0.6,
    device: str = "cpu A",
    timed: bool = True,
    predictions: bool = True,
    **changes: Any,
) -> Path:
    """One completed run in `folder`; `changes` replace whole entries of the record."""
    folder.mkdir(parents=True)
    wanted = ACCURACIES.get(label, 0.78) if accuracy is None else accuracy
    ratio = SPEEDUPS.get(label, 1.5) if speedup is None else speedup
    correct = _correct(wanted, seed)
    dense = label == DENSE
    metrics = {"accuracy": float(correct.mean()), "f1": 0.79, "loss": 0.45, "step": STEPS}
    content: dict[str, Any] = {
        "schema_version": 1,
        "run_id": f"{folder.parent.name}/{folder.name}",
        "status": "completed",
        "error": None,
        "started": f"2026-01-01T00:{seed:02d}:00.000+00:00",
        "ended": "2026-01-01T01:00:00.000+00:00",
        "label": label,
        "experiment": label if experiment is None and label in ACCURACIES else experiment,
        "config": {
            "model": {"name": "m", "random_init": False},
            "data": {"name": "d"},
            "schedule": {"name": "ramp"},
            "estimator": {"name": "svd"},
            "compensation": {"name": "none"},
            "lora": {"r": 8},
            "train": {"max_steps": STEPS, "threads": 1},
            "svd_rank": svd_rank,
            "ffn_sparsity": 0.0 if dense else ffn_sparsity,
            "tags": [label],
            "layer_sparsity": {"layer.0": SPEEDUPS.get(label, ratio)},
            "seed": seed,
        },
        "overrides": [f"experiment={label}", f"seed={seed}"],
        "provenance": {
            "git": {"commit": "c0ffee", "dirty": False},
            "device": device,
            "device_type": "cpu",
            "host": "h",
            "threads": 1,
        },
        "steps": {"dense": STEPS if dense else 6, "sparse": 0 if dense else STEPS - 6},
        "metrics": {"validation": metrics, "best_validation": metrics, "test": None},
        "evaluations": [metrics | {"step": STEPS // 2}, metrics],
        "parameters": {"trained": 1000, "total": 9000},
        "sparsity": {
            "realised_mean": 0.0 if dense else 0.5,
            "layers": []
            if dense
            else [{"name": f"layer.{n}", "realised_sparsity": n / 4} for n in range(3)],
        },
        "flops": {
            "dense": {"total": 2_000_000_000},
            "sparse": None if dense else {"total": 1_000_000_000, "estimator": 10},
        },
        "calibration_seconds": 0.5,
    }
    if timed:
        content["timing"] = {
            "speedup": ratio,
            "speedup_low": ratio * 0.98,
            "speedup_high": ratio * 1.02,
            "own_speedup": None if dense else ratio * 0.9,
            "dense_speedup": 1.1,
            "bound": 1.0 if dense else 2.0,
            "efficiency": None if dense else ratio * 0.45,
            "aa_speedup": 1.0,
            "stable": True,
            "peak_memory_mb": 300.0,
            "dense_peak_memory_mb": 400.0,
        }
        content |= {"dense_reference_ms": 100.0, "ms_per_step": 100.0 / ratio, "run_speedup": 1.4}
    (folder / "record.json").write_text(json.dumps(content | changes))
    if predictions:
        _predictions(correct).to_parquet(folder / "predictions.parquet", index=False)
        _metrics(dense).to_csv(folder / "metrics.csv", index=False)
    return folder


def _correct(accuracy: float, seed: int) -> np.ndarray:
    # Hard films are hard for every run; a seed changes a few lines.
    generator = np.random.default_rng(0)
    film = np.repeat(generator.normal(size=FILMS), LINES // FILMS)
    ease = film * 0.5 + generator.normal(size=LINES)
    ease += 0.2 * np.random.default_rng(seed).normal(size=LINES)
    return ease > np.quantile(ease, 1 - accuracy)


def _predictions(correct: np.ndarray) -> pd.DataFrame:
    labels = np.arange(LINES) % 2
    said = np.where(correct, labels, 1 - labels)
    return pd.DataFrame(
        {
            "split": "validation",
            "step": STEPS,
            "example_id": np.arange(LINES),
            "group": [f"film {n // (LINES // FILMS)}" for n in range(LINES)],
            "label": labels,
            "logits": [[1.0 - s, float(s)] for s in said],
        }
    )


def _metrics(dense: bool) -> pd.DataFrame:
    steps = np.arange(1, STEPS + 1)
    phase = np.where(dense | (steps <= 6), "dense", "sparse")
    return pd.DataFrame({"step": steps, "phase": phase, "loss": 0.7 - steps / 1000})


def named_settings(root: Path, seeds: int = 3) -> Path:
    """Plain LoRA, `optimized` and `fallback`, each with some seeds."""
    for label in ACCURACIES:
        for seed in range(1, seeds + 1):
            run(root / f"{label}-{seed}", label, seed)
    return root
