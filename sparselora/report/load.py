"""Records on disk → one pandas frame, a row a run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sparselora.errors import UserError

RECORD_NAME = "record.json"

_FIELDS: dict[str, tuple[str, ...]] = {
    "run_id": ("run_id",),
    "status": ("status",),
    "label": ("label",),
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
    "ms_per_step_dense": ("step_time_ms", "dense", "p50"),
    "ms_per_step_sparse": ("step_time_ms", "sparse", "p50"),
    "realised_sparsity": ("sparsity", "realised_mean"),
    "ffn_dense_flops": ("flops", "ffn_dense"),
    "ffn_sparse_flops": ("flops", "ffn_sparse"),
    "estimator_flops": ("flops", "estimators"),
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
    "ms_per_step_dense",
    "ms_per_step_sparse",
    "realised_sparsity",
    "ffn_dense_flops",
    "ffn_sparse_flops",
    "estimator_flops",
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
    frame = pd.DataFrame(rows, columns=[*_FIELDS, "folder"])
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
    row["folder"] = str(file.parent)
    return row


def _dig(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
