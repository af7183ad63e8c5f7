"""Keep the record of a run: one JSON file, replaced whole at each change, never a pickle.

Beside it stand `metrics.csv`, a row a step, and `predictions.parquet`, a row an example and evaluation.
"""

import csv
import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pandas as pd

from sparselora.errors import UserError
from sparselora.records.files import write_atomically, write_json
from sparselora.records.sections import RunContent
from sparselora.records.typed import read

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
BENCH_NAME = "bench.json"
METRICS_NAME = "metrics.csv"
PREDICTIONS_NAME = "predictions.parquet"

RUNNING, COMPLETED, FAILED, INTERRUPTED = "running", "completed", "failed", "interrupted"


class RunRecord:
    """Keep the record of one run in `folder`, on disk from construction on.

    Args:
        folder: of the run; made if need be.
        content: what is known at the start (config, provenance, …).

    Raises:
        UserError: the folder holds a record already; records are never overwritten.
    """

    def __init__(self, folder: Path, content: RunContent) -> None:
        self.folder = folder
        self.path = folder / RECORD_NAME
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            raise UserError(f"{self.path}: exists; a run needs a folder of its own")
        self.content = dataclasses.replace(
            content,
            schema_version=SCHEMA_VERSION,
            run_id=content.run_id or _run_id(folder),
            status=RUNNING,
            started=now(),
        )
        self._metrics: IO[str] | None = None
        self._writer: Any = None
        self._predictions: list[pd.DataFrame] = []
        self.save()

    def save(self) -> None:
        """Replace the file on disk by what the record holds now."""
        write_record(self.path, self.content)

    def add_step(self, row: Any) -> None:
        """Append a dataclass as a line of `metrics.csv`; on disk when this returns."""
        values = dataclasses.asdict(row)  # inf and nan are figures of a step, too
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
        self.content.status, self.content.error, self.content.ended = status, error, now()
        self.save()


def read_record(folder: Path) -> RunContent | None:
    """Return the record in a run's folder; None where there is none that can be read.

    What an older version did not write is None; what another one wrote beside it is kept.
    """
    try:
        return read(RunContent, json.loads((folder / RECORD_NAME).read_text()))
    except (OSError, ValueError):
        return None


def write_record(path: Path, content: RunContent) -> None:
    """Replace a record's file: whole, or not at all."""
    write_json(path, content.to_dict())


def now() -> str:
    """Return the time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _run_id(folder: Path) -> str:
    alone = folder.parent.name == "runs"
    return folder.name if alone else f"{folder.parent.name}/{folder.name}"
