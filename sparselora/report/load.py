"""Records on disk → one pandas frame, a row a run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sparselora.errors import UserError
from sparselora.record import RECORD_NAME

_FIELDS: dict[str, tuple[str, ...]] = {
    "run_id": ("run_id",),
    "status": ("status",),
    "label": ("label",),
    "overrides": ("overrides",),
    "experiment": ("experiment",),
    "model": ("config", "model", "name"),
    "data": ("config", "data", "name"),
    "schedule": ("config", "schedule", "name"),
    "estimator": ("config", "estimator", "name"),
    "svd_rank": ("config", "svd_rank"),
    "ffn_sparsity": ("config", "ffn_sparsity"),
    "sparse_warmup_ratio": ("config", "sparse_warmup_ratio"),
    "seed": ("config", "seed"),
    "accuracy": ("metrics", "validation", "accuracy"),
    "f1": ("metrics", "validation", "f1"),
    "loss": ("metrics", "validation", "loss"),
    "best_accuracy": ("metrics", "best_validation", "accuracy"),
    "test_accuracy": ("metrics", "test", "accuracy"),
    "evaluations": ("evaluations",),
    "dense_steps": ("steps", "dense"),
    "sparse_steps": ("steps", "sparse"),
    "calibration_seconds": ("calibration_seconds",),
    "dense_reference_ms": ("dense_reference_ms",),
    "dense_speedup": ("timing", "dense_speedup"),
    "ms_per_step_dense": ("step_time_ms", "dense", "p50"),
    "ms_per_step_sparse": ("step_time_ms", "sparse", "p50"),
    "realised_sparsity": ("sparsity", "realised_mean"),
    "dense_flops": ("flops", "dense", "total"),
    "sparse_flops": ("flops", "sparse", "total"),
    "estimator_flops": ("flops", "sparse", "estimator"),
    "bound": ("timing", "bound"),
    "speedup": ("timing", "speedup"),
    "speedup_low": ("timing", "speedup_low"),
    "speedup_high": ("timing", "speedup_high"),
    "own_speedup": ("timing", "own_speedup"),
    "efficiency": ("timing", "efficiency"),
    "aa_speedup": ("timing", "aa_speedup"),
    "timing_stable": ("timing", "stable"),
    "ms_per_step": ("ms_per_step",),
    "run_speedup": ("run_speedup",),
    "device_type": ("provenance", "device_type"),
    "trained_parameters": ("parameters", "trained"),
    "peak_memory_mb": ("peak_memory_mb",),
    "device": ("provenance", "device"),
    "threads": ("provenance", "threads"),
    "random_weights": ("config", "model", "random_init"),
    "error": ("error",),
}
"""Column → where it stands in a record. Times are ms, memory is 10⁶ bytes, FLOPs are a step's."""

_NUMBERS = (
    "svd_rank",
    "ffn_sparsity",
    "sparse_warmup_ratio",
    "seed",
    "accuracy",
    "f1",
    "loss",
    "best_accuracy",
    "test_accuracy",
    "dense_steps",
    "sparse_steps",
    "calibration_seconds",
    "dense_reference_ms",
    "dense_speedup",
    "ms_per_step_dense",
    "ms_per_step_sparse",
    "realised_sparsity",
    "dense_flops",
    "sparse_flops",
    "estimator_flops",
    "bound",
    "speedup",
    "speedup_low",
    "speedup_high",
    "own_speedup",
    "efficiency",
    "aa_speedup",
    "ms_per_step",
    "run_speedup",
    "trained_parameters",
    "peak_memory_mb",
    "threads",
)


def load_records(path: str | Path) -> pd.DataFrame:
    """Every record below `path`, a row each, in the order of their folders.

    What a record does not hold is missing in its row. A file that is not a whole record gives a row
    whose status is `unreadable`. The column `folder` says where each lies.

    Raises:
        UserError: no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{path}: no such folder; give one that runs wrote to, such as outputs")
    rows = [_row(file) for file in sorted(root.rglob(RECORD_NAME), key=_natural)]
    frame = pd.DataFrame(rows, columns=[*_FIELDS, "pairing", "folder"])
    for column in _NUMBERS:
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    return frame


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in file.parts]


def _row(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        return {"status": "unreadable", "error": str(error), "folder": str(file.parent)}
    row = {column: _dig(record, keys) for column, keys in _FIELDS.items()}
    row["pairing"] = pairing_key(record)
    row["folder"] = str(file.parent)
    return row


def pairing_key(record: dict[str, Any]) -> str | None:
    """What a run shares with the plain LoRA run that it is compared with: all but its sparsity."""
    config = record.get("config")
    if not isinstance(config, dict):
        return None
    parts = {key: config.get(key) for key in ("model", "data", "lora", "train", "seed")}
    if isinstance(parts["train"], dict):
        aside = ("threads", "device", "keep_checkpoints")
        parts["train"] = {key: item for key, item in parts["train"].items() if key not in aside}
    return json.dumps(parts, sort_keys=True)


def _dig(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
