"""Do one checked setting in a folder: a run, or one for each of its seeds."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sparselora.config.identity import content_hash
from sparselora.config.naming import describe
from sparselora.config.schema import RunConfig
from sparselora.machine.device import choose_device, use_threads
from sparselora.machine.provenance import provenance
from sparselora.records.record import RunRecord
from sparselora.records.sections import Provenance, RunContent, Scores
from sparselora.records.typed import build
from sparselora.runs.checks import user_keys
from sparselora.runs.fine_tune import fine_tune
from sparselora.runs.repeats import run_repeats
from sparselora.training.loop import StepPlan, StepRow


@dataclass(frozen=True)
class Origin:
    """Say what a setting was asked for with, as its record repeats it."""

    overrides: Sequence[str] = ()
    """In Hydra's words."""
    experiment: str | None = None
    """The named setting that they start from."""
    config_flags: Sequence[str] = ()
    """Flags that brought config files of the user's own."""


class Watcher(Protocol):
    """Follow a run while it goes on."""

    def on_step(self, row: StepRow, plan: StepPlan, latest: Scores | None) -> None:
        """Take a step of training, and the newest evaluation."""
        ...

    def on_round(self, done: int) -> None:
        """Take the number of rounds of timing that are done."""
        ...


class Silence:
    """Follow a run and show nothing."""

    def on_step(self, row: StepRow, plan: StepPlan, latest: Scores | None) -> None:
        """Do nothing with a step of training."""

    def on_round(self, done: int) -> None:
        """Do nothing with a round of timing."""


Watch = Callable[[str], AbstractContextManager[Watcher]]
"""Makes what follows a run, from its label; left when the run ends."""


def run_job(
    run: RunConfig,
    sparsities: Sequence[float],
    folder: Path,
    origin: Origin | None = None,
    sweep: Path | None = None,
    watch: Watch = lambda label: nullcontext(Silence()),
    on_end: Callable[[RunRecord], None] = lambda record: None,
) -> list[RunRecord]:
    """Fine-tune one checked setting; its record stands in `folder`, or one a seed in folders below it.

    Args:
        run: the checked settings.
        sparsities: asked of each layer, from `check_shape`.
        folder: made if need be; holds no record yet.
        origin: what the setting was asked for with.
        sweep: folder of the sweep that the job belongs to, whose runs share a dense reference, and
            whose front may end it before its last seed; None for a job on its own.
        watch: makes what follows each run.
        on_end: called with each record when its run is complete.

    Returns:
        The records of the runs that were done: one, or one for each of `run.seeds`.

    Raises:
        UserError: the folder holds a record, or the data or the model are not as asked for.
    """
    origin = origin or Origin()
    if run.seeds is None:
        record = _run_one(run, sparsities, folder, origin, sweep, watch)
        on_end(record)
        return [record]

    def one(seed: int, child: Path) -> RunRecord:
        alone = replace(run, seed=seed, seeds=None)
        # The command that repeats this seed alone.
        rest = [item for item in origin.overrides if not item.lstrip("+").startswith("seeds=")]
        repeated = replace(origin, overrides=[*rest, f"seed={seed}"])
        record = _run_one(alone, sparsities, child, repeated, sweep, watch, parent=folder)
        on_end(record)
        return record

    # A named setting is what others are compared with: it is never given up.
    return run_repeats(run.seeds, folder, one, None if origin.experiment else sweep)


def _run_one(
    run: RunConfig,
    sparsities: Sequence[float],
    folder: Path,
    origin: Origin,
    sweep: Path | None,
    watch: Watch,
    parent: Path | None = None,
) -> RunRecord:
    device = choose_device(run.train.device)
    use_threads(run.train.threads)
    label = describe(run, sparsities, origin.experiment, user_keys(origin.overrides))
    content = RunContent(
        run_id=None if parent is None else f"{parent.parent.name}/{parent.name}/{folder.name}",
        label=label,
        experiment=origin.experiment if label == origin.experiment else None,
        config=run.to_dict(),
        config_hash=content_hash(run),
        overrides=list(origin.overrides),
        config_flags=list(origin.config_flags),
        provenance=build(Provenance, provenance(device)),
    )
    record = RunRecord(folder, content)
    keep = run.train.keep_checkpoints.name
    with watch(label if parent is None else f"{label}, seed {run.seed}") as watcher:
        fine_tune(
            run,
            sparsities,
            record,
            device,
            keep_last=keep == "all" or (keep == "auto" and sweep is None),
            on_step=watcher.on_step,
            on_round=watcher.on_round,
            study=sweep,
        )
    return record


def objectives(content: RunContent) -> tuple[float, float]:
    """Return accuracy at the end and ms/step, drift-corrected, or raw where nothing was timed."""
    assert content.final is not None
    assert content.step_time_ms is not None
    times = content.step_time_ms
    raw = (times.sparse if times.sparse.steps else times.dense).p50
    ms_per_step = content.ms_per_step or raw
    assert ms_per_step is not None
    return content.final.accuracy, ms_per_step
