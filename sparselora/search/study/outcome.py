"""Read what a trial gave from the record that its run left, never from memory."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.study import StudyDirection

from sparselora.errors import UserError
from sparselora.records.record import COMPLETED, FAILED, read_record
from sparselora.records.sections import RunContent
from sparselora.runs.repeats import read_repeats


@dataclass(frozen=True)
class Objective:
    """Describe one objective: where it stands in a record, and which way it is better."""

    direction: StudyDirection
    read: Callable[[RunContent], float | None]
    timed: bool = False
    """Whether it takes `measure.timing`."""
    of_device: bool = False
    """Whether figures of two devices may not meet in one study."""


MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def _accuracy(record: RunContent) -> float | None:
    final = record.final
    return None if final is None else final.accuracy


def _speedup(record: RunContent) -> float | None:
    return None if record.timing is None else record.timing.speedup


def _gflops(record: RunContent) -> float | None:
    if record.flops is None:
        return None
    return (record.flops.sparse or record.flops.dense).total / 1e9


OBJECTIVES: Mapping[str, Objective] = {
    "accuracy": Objective(MAXIMIZE, _accuracy),
    "ms_per_step": Objective(
        MINIMIZE,
        lambda record: record.ms_per_step,
        timed=True,
        of_device=True,
    ),
    "speedup": Objective(MAXIMIZE, _speedup, timed=True),
    "run_speedup": Objective(MAXIMIZE, lambda record: record.run_speedup, timed=True),
    "gflops_per_step": Objective(MINIMIZE, _gflops),
}


def get_objectives(names: Sequence[str]) -> list[Objective]:
    """Return the objectives of these names.

    Raises:
        UserError: one is unknown, or twice there, or there is none.
    """
    for name in names:
        if name not in OBJECTIVES:
            raise UserError(
                f"hydra.sweeper.objectives: {name!r}: some of {', '.join(OBJECTIVES)} are allowed"
            )
    if not names or len(set(names)) != len(names):
        raise UserError(f"hydra.sweeper.objectives={list(names)}: each once, at least one")
    return [OBJECTIVES[name] for name in names]


@dataclass(frozen=True)
class Outcome:
    """Hold what a finished run gave.

    Attributes:
        values: of the objectives; None where the run failed.
        reason: why, where it did.
        attributes: what the dashboard shows beside the values.
    """

    values: list[float] | None
    reason: str | None
    attributes: dict[str, Any]

    @staticmethod
    def failed(reason: str) -> "Outcome":
        """Return the outcome of a run that failed for a reason."""
        return Outcome(None, reason, {})


def read_outcome(folder: Path, objectives: Sequence[str]) -> Outcome | None:
    """Return the outcome of a job; None where it did not come to an end of its own.

    A job over several seeds has means over those that were run.
    """
    parent = read_repeats(folder)
    if parent is None:
        return _of_run(folder, objectives)
    if parent.status not in (COMPLETED, FAILED):
        return None
    children = [_of_run(folder / f"seed_{seed}", objectives) for seed in parent.done]
    found = [child for child in children if child is not None]
    attributes = _means([child.attributes for child in found])
    attributes |= {"seeds": parent.done, "seeds_asked": parent.seeds}
    if parent.stopped:
        attributes["stopped"] = parent.stopped
    reasons = [child.reason for child in found if child.values is None]
    if parent.status == FAILED or reasons or len(found) < len(children):
        reason = parent.error or (reasons or ["a seed left no record"])[0]
        return Outcome(None, reason, attributes)
    columns = zip(*(child.values for child in found if child.values is not None), strict=True)
    return Outcome([fmean(column) for column in columns], None, attributes)


def _of_run(folder: Path, objectives: Sequence[str]) -> Outcome | None:
    record = read_record(folder)
    if record is None or record.status not in (COMPLETED, FAILED):
        return None
    attributes = _attributes(record)
    if record.status == FAILED:
        return Outcome(None, record.error or "failed", attributes)
    values = [OBJECTIVES[name].read(record) for name in objectives]
    for name, value in zip(objectives, values, strict=True):
        if value is None or not math.isfinite(value):
            if (record.timing_error or "").startswith("interrupted"):
                return None  # trained, and stopped before it was timed
            why = f" ({record.timing_error})" if record.timing_error else ""
            return Outcome(None, f"no {name} in the record{why}", attributes)
    return Outcome([float(value) for value in values if value is not None], None, attributes)


def _means(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # A mean's interval is not the mean of intervals; the report makes one from the records.
    names = {name for one in several for name, value in one.items() if isinstance(value, float)}
    names -= {"speedup_low", "speedup_high"}
    found: dict[str, Any] = {
        name: fmean(one[name] for one in several)
        for name in sorted(names)
        if all(name in one for one in several)
    }
    if several and "device" in several[0]:
        found["device"] = several[0]["device"]
    return found | {"run_ids": [one["run_id"] for one in several if "run_id" in one]}


def _attributes(record: RunContent) -> dict[str, Any]:
    timing, place = record.timing, record.provenance
    validation = record.final
    found = {
        "run_id": record.run_id,
        "config_hash": record.config_hash,
        "device": f"{place.device}, {place.threads} threads" if place and place.device else None,
        "accuracy": validation and validation.accuracy,
        "f1": validation and validation.f1,
        "loss": validation and validation.loss,
        "ms_per_step": record.ms_per_step,
        "mean_sparsity": record.sparsity and record.sparsity.realised_mean,
        "bound": record.flops and record.flops.bound,
        "run_speedup": record.run_speedup,
        "speedup": timing and timing.speedup,
        "speedup_low": timing and timing.speedup_low,
        "speedup_high": timing and timing.speedup_high,
        "stable": timing and timing.stable,
    }
    return {name: value for name, value in found.items() if value is not None}
