"""Load the records on disk as one pandas frame, a row a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sparselora.config.identity import pairing_key, setting_key
from sparselora.config.older_records import filled
from sparselora.errors import UserError
from sparselora.records.record import COMPLETED, FAILED, INTERRUPTED, RECORD_NAME, RUNNING
from sparselora.report.loading.parse import parse_record

UNREADABLE = "unreadable"
"""Status of a file that is not a whole record."""
_STATUSES = (COMPLETED, FAILED, INTERRUPTED, RUNNING)


@dataclass(frozen=True)
class Column:
    """Describe a column of the frame: where it stands in a record, what it holds, in which unit."""

    path: str
    """Keys joined by dots."""
    dtype: str
    legend: str


_ACCURACY = "share of lines answered correctly (causal_lm: completed to the letter), 0 to 1"
_STEPS = "optimizer steps"
_MS = "ms per optimizer step"
_RATIO = "ratio"
_FLOPS = "FLOPs of one optimizer step"
_MB = "10⁶ bytes"

COLUMNS: dict[str, Column] = {
    "run_id": Column("run_id", "string", "name of the run"),
    "status": Column("status", "string", f"{', '.join(_STATUSES)} or {UNREADABLE}"),
    "schema_version": Column("schema_version", "Int64", "version of the record's layout"),
    "started": Column("started", "string", "UTC, ISO 8601"),
    "ended": Column("ended", "string", "UTC, ISO 8601"),
    "label": Column("label", "string", "short name of the setting"),
    "overrides": Column("overrides", "object", "list of what was given on the command line"),
    "config_flags": Column(
        "config_flags", "object", "list of the flags that brought config files of the user's own"
    ),
    "experiment": Column("experiment", "string", "named setting, where nothing of it was changed"),
    "task": Column(
        "config.task.name", "string", "classification or causal_lm; none before that was"
    ),
    "model": Column("config.model.name", "string", ""),
    "data": Column("config.data.name", "string", ""),
    "schedule": Column("config.schedule.name", "string", ""),
    "estimator": Column("config.estimator.name", "string", ""),
    "compensation": Column("config.compensation.name", "string", ""),
    "svd_rank": Column("config.svd_rank", "Int64", "rank of the estimate"),
    "ffn_sparsity": Column("config.ffn_sparsity", "float64", "share of channels left out, 0 to 1"),
    "qk_sparsity": Column("config.qk_sparsity", "float64", "of query and key, share left out"),
    "vo_sparsity": Column("config.vo_sparsity", "float64", "of value and output, share left out"),
    "tokens": Column("config.tokens", "string", "which are computed sparsely: all or context"),
    "sparse_warmup_ratio": Column("config.sparse_warmup_ratio", "float64", "share of the steps"),
    "seed": Column("config.seed", "Int64", ""),
    "accuracy": Column("metrics.validation.accuracy", "float64", _ACCURACY + ", at the end"),
    "f1": Column("metrics.validation.f1", "float64", "0 to 1, at the end; of a classifier"),
    "loss": Column(
        "metrics.validation.loss", "float64", "nats per line, or completion token, at the end"
    ),
    "best_accuracy": Column("metrics.best_validation.accuracy", "float64", _ACCURACY + ", best"),
    "test_accuracy": Column("metrics.test.accuracy", "float64", _ACCURACY + ", on the test split"),
    "evaluations": Column("evaluations", "object", "list of evaluations: step and metrics"),
    "dense_steps": Column("steps.dense", "Int64", _STEPS),
    "sparse_steps": Column("steps.sparse", "Int64", _STEPS),
    "calibration_seconds": Column("calibration_seconds", "float64", "seconds"),
    "dense_reference_ms": Column("dense_reference_ms", "float64", _MS + ", stock PEFT LoRA"),
    "dense_speedup": Column("timing.dense_speedup", "float64", _RATIO + ", stock over our dense"),
    "ms_per_step_dense": Column("step_time_ms.dense.p50", "float64", _MS + ", raw median"),
    "ms_per_step_sparse": Column("step_time_ms.sparse.p50", "float64", _MS + ", raw median"),
    "realised_sparsity": Column("sparsity.realised_mean", "float64", "share left out, counted"),
    "layers": Column("sparsity.layers", "object", "list of layers: name, width, kept, sparsity"),
    "dense_flops": Column("flops.dense.total", "float64", _FLOPS),
    "sparse_flops": Column("flops.sparse.total", "float64", _FLOPS),
    "estimator_flops": Column("flops.sparse.estimator", "float64", _FLOPS),
    "bound": Column("timing.bound", "float64", _RATIO + ", dense FLOPs over sparse FLOPs"),
    "speedup": Column("timing.speedup", "float64", _RATIO + ", stock PEFT LoRA over this"),
    "speedup_low": Column("timing.speedup_low", "float64", _RATIO + ", of the 95 % interval"),
    "speedup_high": Column("timing.speedup_high", "float64", _RATIO + ", of the 95 % interval"),
    "own_speedup": Column("timing.own_speedup", "float64", _RATIO + ", our dense over sparse"),
    "efficiency": Column("timing.efficiency", "float64", _RATIO + ", own_speedup over bound"),
    "aa_speedup": Column("timing.aa_speedup", "float64", _RATIO + ", stock over itself"),
    "timing_stable": Column("timing.stable", "boolean", "whether that ratio is 1, by its interval"),
    "ms_per_step": Column("ms_per_step", "float64", _MS + ", drift-corrected"),
    "run_speedup": Column("run_speedup", "float64", _RATIO + ", of the whole run"),
    "step_memory_mb": Column("timing.peak_memory_mb", "float64", _MB + ", peak of one step"),
    "dense_step_memory_mb": Column("timing.dense_peak_memory_mb", "float64", _MB + ", of stock"),
    "peak_memory_mb": Column("peak_memory_mb", "float64", _MB + ", peak of the process"),
    "trained_parameters": Column("parameters.trained", "Int64", "number"),
    "device": Column("provenance.device", "string", ""),
    "device_type": Column("provenance.device_type", "string", "cpu or cuda"),
    "host": Column("provenance.host", "string", ""),
    "threads": Column("provenance.threads", "Int64", "CPU threads of the run"),
    "commit": Column("provenance.git.commit", "string", "of the code"),
    "random_weights": Column("config.model.random_init", "boolean", "accuracy means nothing"),
    "error": Column("error", "string", "why it failed, or cannot be read"),
}
"""The frame's columns; then come `pairing`, `setting`, `folder`, and every other key of the config as
`config.KEY`."""

_KEYS = {
    "pairing": "model, data, LoRA, budget and seed: what a run shares with its plain LoRA run",
    "setting": "all settings but the seed: repeats share it",
    "folder": "where the record lies",
}
LEGEND: dict[str, str] = {name: column.legend for name, column in COLUMNS.items()} | _KEYS
"""What each column holds, with its unit."""

_NAMED_PATHS = {column.path for column in COLUMNS.values()}


def load_records(*paths: str | Path) -> pd.DataFrame:
    """Read every record below the folders, a row each, in the order of their folders.

    What a record does not hold is missing in its row, never a made-up value: a partial, failed or
    older record gives a row with what it has. A file that is not a whole record gives one whose status
    is `unreadable`. `LEGEND` says what the columns hold; other keys of the config are columns too, as
    `config.KEY`.

    Raises:
        UserError: no such folder.
    """
    files: dict[Path, None] = {}
    for path in paths:
        root = Path(path)
        if not root.is_dir():
            raise UserError(f"{path}: no such folder; give one that runs wrote to, such as outputs")
        files |= {file.resolve(): None for file in sorted(root.rglob(RECORD_NAME), key=_natural)}
    rows = [_row(file) for file in files]
    extra = {key: None for row in rows for key in row if key not in COLUMNS and key not in _KEYS}
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *_KEYS, *extra])
    for name, column in COLUMNS.items():
        if column.dtype in ("float64", "Int64"):
            numbers = pd.to_numeric(frame[name], errors="coerce").astype("float64")
            exact = (numbers.dropna() % 1 == 0) & (numbers.dropna().abs() < 2**53)
            whole = column.dtype == "Int64" and exact.all()
            frame[name] = numbers.astype("Int64" if whole else "float64")
        elif column.dtype == "boolean":
            known = frame[name].map(lambda value: value if isinstance(value, bool) else None)
            frame[name] = known.astype("boolean")
        elif column.dtype == "string":
            frame[name] = frame[name].map(_text).astype("string")
        else:
            frame[name] = frame[name].astype("object")
    return frame


def _row(file: Path) -> dict[str, Any]:
    try:
        record = parse_record(file)
    except (OSError, ValueError, RecursionError) as error:
        return {"status": UNREADABLE, "error": str(error), "folder": str(file.parent)}
    row = {name: _dig(record, column.path) for name, column in COLUMNS.items()}
    config = record.get("config")
    if isinstance(config, dict):
        flat = flatten(config, "config")
        row |= {key: value for key, value in flat.items() if key not in _NAMED_PATHS}
        whole = filled(config)
        row |= {"pairing": pairing_key(whole), "setting": setting_key(whole)}
    row["folder"] = str(file.parent)
    return row


def flatten(value: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Join nested keys by dots; `layer_sparsity` and its like stay one entry."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}"
        if isinstance(item, dict) and not key.startswith("layer_"):
            flat |= flatten(item, name)
        else:
            flat[name] = item
    return flat


def _dig(value: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in file.parts]


def _text(value: Any) -> str | None:
    return None if value is None or value is pd.NA or value != value else str(value)
