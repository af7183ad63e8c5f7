"""Keep the dense reference of a study: one figure for stock LoRA's ms/step, so that runs can be ranked.

The first run of a sweep on a device leaves its stock time here; every later one of the same kind divides
that by its own speed-up. Figures of two devices, or of two kinds of step, never meet.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from sparselora.records.files import write_json

REFERENCE_NAME = "dense_reference.json"


def dense_reference(study: Path, key: str, stock_ms: float) -> float:
    """Return the study's figure for `key`, in ms; `stock_ms` becomes it where there is none yet."""
    with _locked(study) as stored:
        if key not in stored:
            stored[key] = stock_ms
            _write(study, stored)
        return stored[key]


def write_references(study: Path, figures: Mapping[str, float]) -> None:
    """Put figures of elsewhere in the place of the folder's own; it is made if need be."""
    study.mkdir(parents=True, exist_ok=True)
    with _locked(study) as stored:
        if any(stored.get(key) != value for key, value in figures.items()):
            _write(study, stored | dict(figures))


@contextmanager
def _locked(study: Path) -> Iterator[dict[str, float]]:
    path = study / REFERENCE_NAME
    with FileLock(f"{path}.lock"):
        yield json.loads(path.read_text()) if path.exists() else {}


def _write(study: Path, figures: Mapping[str, float]) -> None:
    write_json(study / REFERENCE_NAME, figures)
