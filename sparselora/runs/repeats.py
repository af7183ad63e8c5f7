"""One setting over several seeds as one trial: a run a seed, in folders of their own, and their means."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparselora.records.record import COMPLETED, FAILED, INTERRUPTED, RUNNING, write_record

REPEATS_NAME = "repeats.json"
FRONT_NAME = "front.json"
"""In a sweep's folder: accuracy and ms/step of the settings that none is better than, as a search knows
them."""
FEWEST = 2
"""Seeds before a setting may be given up."""


def run_repeats(
    seeds: Sequence[int],
    folder: Path,
    run_one: Callable[[int, Path], Mapping[str, Any]],
    sweep: Path | None,
) -> list[Mapping[str, Any]]:
    """Run the seeds in turn; the records of those that were run.

    Stops early where the setting is clearly dominated, see `clearly_dominated`. What was done, and why no
    more, stands in `repeats.json`.

    Args:
        seeds: at least one.
        folder: of the parent; made if need be.
        run_one: does one seed in a folder and gives its record.
        sweep: folder of the sweep, where a search leaves its front.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Mapping[str, Any]] = []
    content: dict[str, Any] = {"status": RUNNING, "error": None, "seeds": list(seeds)}
    content |= {"done": [], "stopped": None}

    def save(**changes: Any) -> None:
        content.update(changes)
        write_record(folder / REPEATS_NAME, content)

    save()
    try:
        for seed in seeds:
            records.append(run_one(seed, folder / f"seed_{seed}"))
            save(done=[*content["done"], seed])
            if len(records) < len(seeds) and clearly_dominated(records, _front(sweep)):
                save(stopped="a setting of the study's front is better in accuracy and in ms/step")
                break
    except KeyboardInterrupt:
        save(status=INTERRUPTED, error="interrupted by the user or a signal")
        raise
    except BaseException as error:
        save(status=FAILED, error=f"{type(error).__name__}: {error}")
        raise
    save(status=COMPLETED)
    return records


def clearly_dominated(
    records: Sequence[Mapping[str, Any]], front: Sequence[tuple[float, float]]
) -> bool:
    """Whether a setting of the front is surely more accurate and faster than this one's seeds say.

    In accuracy by more than two standard errors of one evaluation, √(p (1 − p) / rows); in ms/step below
    the least that any seed's speed-up interval allows. Never before two seeds.

    Args:
        records: of the seeds so far.
        front: accuracy in [0, 1] and ms/step of each of its settings.
    """
    if len(records) < FEWEST:
        return False
    times = [_least_ms(record) for record in records]
    accuracy = statistics.fmean(record["metrics"]["validation"]["accuracy"] for record in records)
    rows = records[0]["data"]["rows"]["validation"]
    margin = 2 * math.sqrt(accuracy * (1 - accuracy) / rows)
    known = [time for time in times if time is not None]
    return len(known) == len(times) and any(
        other > accuracy + margin and ms < min(known) for other, ms in front
    )


def write_front(sweep: Path, front: Sequence[tuple[float, float]]) -> None:
    """Leave what a search knows for the runs of its sweep."""
    sweep.mkdir(parents=True, exist_ok=True)
    write_record(sweep / FRONT_NAME, {"front": [list(point) for point in front]})


def read_repeats(folder: Path) -> dict[str, Any] | None:
    """What `run_repeats` left in a folder; None where that was none."""
    try:
        content: dict[str, Any] = json.loads((folder / REPEATS_NAME).read_text())
    except (OSError, ValueError):
        return None
    return content


def _front(sweep: Path | None) -> list[tuple[float, float]]:
    path = None if sweep is None else sweep / FRONT_NAME
    if path is None or not path.exists():
        return []
    return [(accuracy, ms) for accuracy, ms in json.loads(path.read_text())["front"]]


def _least_ms(record: Mapping[str, Any]) -> float | None:
    timing, reference = record.get("timing"), record.get("dense_reference_ms")
    if not timing or reference is None:
        return None
    return float(reference) / float(timing["speedup_high"])
