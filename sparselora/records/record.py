"""What a run was and what it gave: one JSON file, replaced whole at each change, never a pickle.

Beside it stand `metrics.csv`, a row a step, and `predictions.parquet`, a row an example and evaluation.
"""

import csv
import dataclasses
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from sparselora.errors import UserError
from sparselora.records.files import write_atomically

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
BENCH_NAME = "bench.json"
METRICS_NAME = "metrics.csv"
PREDICTIONS_NAME = "predictions.parquet"

RUNNING, COMPLETED, FAILED, INTERRUPTED = "running", "completed", "failed", "interrupted"


class RunRecord:
    """The record of one run in `folder`, on disk from construction on.

    Args:
        folder: of the run; made if need be.
        content: what is known at the start (config, provenance, …).

    Raises:
        UserError: the folder holds a record already; records are never overwritten.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        self.path = folder / RECORD_NAME
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            raise UserError(f"{self.path}: exists; a run needs a folder of its own")
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": folder.name if folder.parent.name == "runs" else _joined(folder),
            "status": RUNNING,
            "error": None,
            "started": now(),
            "ended": None,
            **content,
        }
        self._metrics: IO[str] | None = None
        self._writer: Any = None
        self._predictions: list[pd.DataFrame] = []
        self.save()

    def save(self) -> None:
        """Replace the file on disk by what the record holds now."""
        write_record(self.path, self.content)

    def add_step(self, row: Any) -> None:
        """Append a dataclass as a line of `metrics.csv`; on disk when this returns."""
        values = dataclasses.asdict(row)
        if self._metrics is None:
            self._metrics = (self.folder / METRICS_NAME).open("w", newline="")
            self._writer = csv.DictWriter(self._metrics, list(values))
            self._writer.writeheader()
        self._writer.writerow(values)
        self._metrics.flush()

    def add_predictions(self, frame: pd.DataFrame) -> None:
        """Add the rows of one evaluation to `predictions.parquet`."""
        self._predictions.append(frame)
        everything = pd.concat(self._predictions, ignore_index=True)
        write_atomically(
            self.folder / PREDICTIONS_NAME,
            lambda temporary: everything.to_parquet(temporary, index=False),
        )

    def end(self, status: str, error: str | None = None) -> None:
        """Close the record as completed, failed or interrupted."""
        if self._metrics is not None:
            self._metrics.close()
        self.content.update(status=status, error=error, ended=now())
        self.save()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None where there is none that can be read."""
    try:
        content: dict[str, Any] = json.loads((folder / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Replace the file: whole, or not at all."""
    # NaN and infinities are not JSON, and would be made-up numbers: null.
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _joined(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
