"""Do one sparse-LoRA fine-tune, from checked settings to a record."""

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch
from transformers import set_seed

from sparselora.config.groups import Timing
from sparselora.config.schema import RunConfig
from sparselora.data.batches import training_batches
from sparselora.errors import TrainingError
from sparselora.machine.lock import DeviceLock
from sparselora.machine.memory import give_back_freed_memory
from sparselora.model.token_checks import check_known, told, unknown_share
from sparselora.records.record import COMPLETED, FAILED, INTERRUPTED, RunRecord
from sparselora.records.sections import CalibratedSchedule, ModelNotes, RunContent, Scores
from sparselora.records.typed import build
from sparselora.runs import summary
from sparselora.runs.keeper import Keeper
from sparselora.runs.setup import DataInputs, Prepared, prepare, read_inputs, step_plan
from sparselora.runs.timing import add_speed, time_setting
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.allocation import LEVELS
from sparselora.sparse.patch import sparsify
from sparselora.training.loop import StepPlan, StepRow, train_steps
from sparselora.training.stepper import Stepper

OnStep = Callable[[StepRow, StepPlan, Scores | None], None]
OnRound = Callable[[int], None]


def fine_tune(
    run: RunConfig,
    sparsities: Sequence[float],
    record: RunRecord,
    device: torch.device,
    keep_last: bool,
    on_step: OnStep = lambda *_: None,
    on_round: OnRound = lambda _: None,
    study: Path | None = None,
) -> RunRecord:
    """Train, evaluate and fill `record`, which ends completed, failed or interrupted.

    Args:
        run: the checked settings.
        sparsities: asked of each layer, from `check_model`.
        record: takes what is reached, whatever the end.
        device: to train on.
        keep_last: whether the adapter of the last step is written beside the best one.
        on_step: called after each step, with the newest evaluation.
        on_round: called after each round of timing.
        study: folder whose runs share a dense reference; None for a run on its own.
    """
    trained = False
    lock, content = DeviceLock(device), record.content
    try:
        inputs = _read(run, lock, content)
        plan = step_plan(run, sparsities, len(inputs.data.splits["train"]))
        prepared = prepare(run, sparsities, inputs, device, lock, lambda: _note(inputs, content))
        _describe_schedule(prepared, content)
        if run.measure.timing is Timing.both:
            content.timing_before = time_setting(prepared, lock, on_round).timing
        _train_and_test(record, prepared, inputs, plan, lock, keep_last, on_step)
        trained = True
        if run.measure.timing is not Timing.none:
            _time(record, prepared, plan, lock, on_round, study)
        record.end(COMPLETED)
    except KeyboardInterrupt:
        if trained:  # only its timing was cut short
            content.timing_error = "interrupted by the user or a signal"
            record.end(COMPLETED)
        else:
            record.end(INTERRUPTED, "interrupted by the user or a signal")
        raise
    except BaseException as error:
        record.end(FAILED, f"{type(error).__name__}: {error}")
        raise
    return record


def _read(run: RunConfig, lock: DeviceLock, content: RunContent) -> DataInputs:
    inputs = read_inputs(run, lock)
    inputs.notes["unknown_share"] = unknown_share(inputs.tokenizer, inputs.tokenized["train"])
    check_known(run, inputs.notes["unknown_share"])
    content.model = build(ModelNotes, inputs.notes)
    content.data = summary.of_data(inputs.data, inputs.tokenized)
    return inputs


def _note(inputs: DataInputs, content: RunContent) -> None:
    inputs.notes["notes"] = told(inputs.notes)
    content.model = build(ModelNotes, inputs.notes)
    for note in inputs.notes["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _describe_schedule(prepared: Prepared, content: RunContent) -> None:
    fitted = prepared.fitted
    if fitted.curves is not None:
        content.calibrated_schedule = CalibratedSchedule(
            levels=list(LEVELS), errors=fitted.curves, sparsities=fitted.sparsities
        )


def _train_and_test(
    record: RunRecord,
    prepared: Prepared,
    inputs: DataInputs,
    plan: StepPlan,
    lock: DeviceLock,
    keep_last: bool,
    on_step: OnStep,
) -> None:
    model, fitted, sparsity = prepared.model, prepared.fitted, prepared.sparsity
    with lock.shared():
        began = perf_counter()
        handle = None if sparsity is None else sparsify(model, sparsity, fitted.calibration)
        faster = accelerate(model) if handle is None else None
        record.content.calibration_seconds = fitted.seconds + perf_counter() - began
    give_back_freed_memory()  # of an earlier run of the process, or of calibration
    keeper = Keeper(record, prepared, inputs, plan, handle, lock, keep_last)
    set_seed(prepared.run.seed)  # the same dropout and order whatever was drawn while setting up
    try:
        _train(keeper, on_step)
    except TrainingError:
        keeper.summarise()
        raise  # its weights are spoilt and worth nothing
    except BaseException:
        keeper.finish()
        raise
    keeper.finish()
    if prepared.run.measure.test:
        keeper.test()
    for patch in (handle, faster):
        if patch is not None:
            patch.remove()
    keeper.drop_checkpoint()


def _train(keeper: Keeper, on_step: OnStep) -> None:
    run, plan, prepared, inputs = keeper.run, keeper.plan, keeper.prepared, keeper.inputs
    stepper = Stepper(
        prepared.model, run.train, plan.total_steps, prepared.device, prepared.task.loss
    )
    done = 0 if run.train.resume is None else keeper.resume(Path(run.train.resume), stepper)
    endless = training_batches(
        inputs.tokenizer, inputs.tokenized["train"], run.train.batch_size, run.seed
    )
    if run.measure.eval_first and not done:
        keeper.validate(0)
    batches = itertools.islice(endless, done * run.train.gradient_accumulation_steps, None)
    for row in train_steps(stepper, keeper.handle, batches, plan, keeper.lock, done):
        keeper.add_step(row)
        if plan.evaluates_after(row.step):
            keeper.validate(row.step)
            keeper.summarise()
        if plan.keeps_after(row.step):
            keeper.save_checkpoint(stepper)
        on_step(row, plan, keeper.history.latest)


def _time(
    record: RunRecord,
    prepared: Prepared,
    plan: StepPlan,
    lock: DeviceLock,
    on_round: OnRound,
    study: Path | None,
) -> None:
    try:
        timing = time_setting(prepared, lock, on_round).timing
        add_speed(record.content, timing, prepared, plan.phases, study)
        record.content.lock_wait_seconds = lock.waited_seconds
        record.save()
    except Exception as error:  # what was trained is whole, and stays so
        record.content.timing_error = f"{type(error).__name__}: {error}"
