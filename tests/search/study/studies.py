"""A study in a file, processes that are dead, and records as runs leave them."""

import json
from pathlib import Path
from typing import Any

import optuna

from sparselora.machine.process import identity
from sparselora.records.record import COMPLETED, RECORD_NAME
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.recovery import recover
from sparselora.search.study.storage import Storage
from sparselora.search.study.study import SharedStudy

DEAD = {"host": identity()["host"], "boot_id": "an earlier boot", "pid": 1, "process_start": 0.0}


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "name": "s",
        "objectives": ["accuracy", "ms_per_step"],
        "n_trials": 5,
        "named": ["dense", "original"],
        "seed": 1,
        "make_sampler": optuna.samplers.RandomSampler,
    }
    return Plan(**(settings | changes))


def opened(url: str | None, **changes: Any) -> SharedStudy:
    """A process's view of the study, after it has looked for what dead ones left."""
    study = SharedStudy(Storage(url), plan(**changes))
    with study.storage.locked():
        recover(study)
    return study


def ask(study: SharedStudy) -> Any:
    with study.storage.locked():
        return study.ask()


def tell(study: SharedStudy, number: int, accuracy: float = 0.8, ms: float = 9.0) -> None:
    with study.storage.locked():
        study.tell(number, Outcome([accuracy, ms], None, {"accuracy": accuracy}))


def record(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True)
    content = {
        "status": COMPLETED,
        "run_id": "r",
        "metrics": {"validation": {"accuracy": 0.75}},
        "ms_per_step": 8.0,
        "timing": {"speedup": 1.5},
        "dense_reference_ms": 12.0,
        "dense_reference_key": "k",
    }
    (folder / RECORD_NAME).write_text(json.dumps(content | changes))
