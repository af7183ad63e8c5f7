"""Do one setting over several seeds as one trial: a run a seed in a folder of its own, and means."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from sparselora.records.files import write_json
from sparselora.records.record import COMPLETED, FAILED, INTERRUPTED, RUNNING, RunRecord
from sparselora.records.sections import RunContent
from sparselora.records.typed import Section, read

REPEATS_NAME = "repeats.json"
FRONT_NAME = "front.json"
"""In a sweep's folder: accuracy and ms/step of the settings that none is better than, as a search knows
them."""
FEWEST = 2
"""Seeds before a setting may be given up."""


@dataclass(kw_only=True)
class Repeats(Section):
    """Hold what `run_repeats` was asked for, and what it did."""

    NULLS: ClassVar[frozenset[str]] = frozenset({"error", "stopped"})

    status: str = RUNNING
    error: str | None = None
    seeds: list[int]
    """Asked for."""
    done: list[int] = field(default_factory=list)
    stopped: str | None = None
    """Why not all of them were run, where that was a decision."""


def run_repeats(
    seeds: Sequence[int],
    folder: Path,
    run_one: Callable[[int, Path], RunRecord],
    sweep: Path | None,
) -> list[RunRecord]:
    """Run the seeds in turn; return the records of those that were run.

    Stops early where the setting is clearly dominated, see `clearly_dominated`. What was done, and why no
    more, stands in `repeats.json`.

    Args:
        seeds: at least one.
        folder: of the parent; made if need be.
        run_one: does one seed in a folder and gives its record.
        sweep: folder of the sweep, where a search leaves its front.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[RunRecord] = []
    content = Repeats(seeds=list(seeds))

    def save() -> None:
        write_json(folder / REPEATS_NAME, content.to_dict())

    save()
    try:
        for seed in seeds:
            records.append(run_one(seed, folder / f"seed_{seed}"))
            content.done.append(seed)
            save()
            contents = [record.content for record in records]
            if len(records) < len(seeds) and clearly_dominated(contents, _front(sweep)):
                content.stopped = (
                    "a setting of the study's front is better in accuracy and in ms/step"
                )
                break
        content.status = COMPLETED
    except KeyboardInterrupt:
        content.status, content.error = INTERRUPTED, "interrupted by the user or a signal"
        raise
    except BaseException as error:
        content.status, content.error = FAILED, f"{type(error).__name__}: {error}"
        raise
    finally:
        save()
    return records


def clearly_dominated(records: Sequence[RunContent], front: Sequence[tuple[float, float]]) -> bool:
    """Return whether a setting of the front is surely more accurate and faster than these seeds' one.

    In accuracy by more than two standard errors of one evaluation, √(p (1 − p) / rows); in ms/step below
    the least that any seed's speed-up interval allows. Never before two seeds.

    Args:
        records: of the seeds so far.
        front: accuracy in [0, 1] and ms/step of each of its settings.
    """
    if len(records) < FEWEST:
        return False
    times = [_least_ms(record) for record in records]
    accuracy = statistics.fmean(_accuracy(record) for record in records)
    assert records[0].data is not None
    rows = records[0].data.rows["validation"]
    margin = 2 * math.sqrt(accuracy * (1 - accuracy) / rows)
    timed = [time for time in times if time is not None]
    return len(timed) == len(times) and any(
        other > accuracy + margin and ms < min(timed) for other, ms in front
    )


def write_front(sweep: Path, front: Sequence[tuple[float, float]]) -> None:
    """Leave a search's front, accuracy and ms/step of each setting, for the runs of its sweep."""
    sweep.mkdir(parents=True, exist_ok=True)
    write_json(sweep / FRONT_NAME, {"front": [list(point) for point in front]})


def read_repeats(folder: Path) -> Repeats | None:
    """Return what `run_repeats` left in a folder; None where that was none."""
    try:
        return read(Repeats, json.loads((folder / REPEATS_NAME).read_text()))
    except (OSError, ValueError):
        return None


def _front(sweep: Path | None) -> list[tuple[float, float]]:
    path = None if sweep is None else sweep / FRONT_NAME
    if path is None or not path.exists():
        return []
    return [(accuracy, ms) for accuracy, ms in json.loads(path.read_text())["front"]]


def _accuracy(record: RunContent) -> float:
    assert record.final is not None
    return record.final.accuracy


def _least_ms(record: RunContent) -> float | None:
    timing, reference = record.timing, record.dense_reference_ms
    if timing is None or reference is None or timing.speedup_high is None:
        return None
    return reference / timing.speedup_high
