"""One sparse-LoRA fine-tune, from checked settings to a record."""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from transformers import set_seed

from sparselora.config.checks import check_sparse_steps, is_dense
from sparselora.config.groups import Timing
from sparselora.config.identity import reference_key
from sparselora.config.schema import RunConfig
from sparselora.data.batches import training_batches
from sparselora.errors import TrainingError
from sparselora.machine.lock import DeviceLock
from sparselora.machine.memory import PeakMemory, give_back_freed_memory
from sparselora.machine.provenance import device_name
from sparselora.measuring import bound
from sparselora.measuring.dimensions import kept_of
from sparselora.measuring.measure import measure
from sparselora.model.load import load_model, load_model_config, load_tokenizer
from sparselora.model.tasks import TASKS
from sparselora.model.token_checks import check_known, check_tokens, told, unknown_share
from sparselora.records.record import COMPLETED, FAILED, INTERRUPTED, PREDICTIONS_NAME, RunRecord
from sparselora.records.reference import dense_reference
from sparselora.runs import summary
from sparselora.runs.checks import load_run_data
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.allocation import LEVELS
from sparselora.sparse.patch import SparsityHandle, sparsify
from sparselora.sparse.phases import Phases
from sparselora.training.adapters import (
    ADAPTER_FOLDER,
    adapter_state,
    load_adapter_state,
    save_adapter,
)
from sparselora.training.calibration_cache import fit
from sparselora.training.checkpoint import (
    CHECKPOINT_NAME,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from sparselora.training.evaluate import evaluate
from sparselora.training.loop import Stepper, StepPlan, StepRow, autocast, train_steps

OnStep = Callable[[StepRow, StepPlan, dict[str, Any]], None]


def fine_tune(
    run: RunConfig,
    sparsities: Sequence[float],
    record: RunRecord,
    device: torch.device,
    keep_last: bool,
    on_step: OnStep,
    on_round: Callable[[int], None] = lambda _: None,
    study: Path | None = None,
) -> RunRecord:
    """Train, evaluate and fill `record`, which ends completed, failed or interrupted.

    Args:
        sparsities: asked of each layer, from `check_model`.
        keep_last: whether the adapter of the last step is written beside the best one.
        on_step: told of each step, with the newest evaluation.
        on_round: told of each round of timing.
        study: folder whose runs share a dense reference; None for a run on its own.
    """
    job = _FineTune(run, sparsities, record, device, keep_last, on_step, on_round, study)
    try:
        job.run_all()
        record.end(COMPLETED)
    except KeyboardInterrupt:
        if job.trained:  # only its timing was cut short
            record.content["timing_error"] = "interrupted by the user or a signal"
            record.end(COMPLETED)
        else:
            record.end(INTERRUPTED, "interrupted by the user or a signal")
        raise
    except BaseException as error:
        record.end(FAILED, f"{type(error).__name__}: {error}")
        raise
    return record


class _FineTune:
    """The state of one fine-tune, so that what was reached stands in the record at any end."""

    def __init__(
        self,
        run: RunConfig,
        sparsities: Sequence[float],
        record: RunRecord,
        device: torch.device,
        keep_last: bool,
        on_step: OnStep,
        on_round: Callable[[int], None],
        study: Path | None,
    ) -> None:
        self.run, self.record, self.device, self.on_step = run, record, device, on_step
        self.on_round, self.study = on_round, study
        self.sparsities = sparsities
        self.task = TASKS[run.task.name]
        self.dense_run = is_dense(run, sparsities)
        self.trained = False
        self.keep_best = run.train.keep_checkpoints.name != "none" and not run.model.random_init
        self.keep_last = keep_last and self.keep_best
        self.rows: list[StepRow] = []
        self.best: dict[str, Any] | None = None
        self.best_state: dict[str, torch.Tensor] = {}
        self.latest: dict[str, Any] = {}
        self.evaluations: list[dict[str, Any]] = []
        self.lock = DeviceLock(device)

    def run_all(self) -> None:
        run = self.run
        with self.lock.shared():
            data = load_run_data(run)
            notes: dict[str, Any] = {}
            self.tokenizer = load_tokenizer(run.model, notes)
            self.data = data
            self.tokenized = {
                name: self.task.tokenize(self.tokenizer, split, run)
                for name, split in data.splits.items()
            }
        check_tokens(run, self.tokenizer, self.tokenized, load_model_config(run.model))
        notes["unknown_share"] = unknown_share(self.tokenizer, self.tokenized["train"])
        check_known(run, notes["unknown_share"])
        self.record.content["model"] = notes
        self.record.content["data"] = summary.of_data(data, self.tokenized)
        total = run.train.max_steps or self._steps_of_epochs(len(data.splits["train"]))
        if not self.dense_run:
            check_sparse_steps(run, total)
        plan = StepPlan(
            Phases.all_dense(total) if self.dense_run else run.phases(total),
            run.measure.eval_every,
            run.train.checkpoint_every,
        )
        set_seed(run.seed)
        pad_token_id = self.tokenizer.pad_token_id
        with self.lock.shared():
            self.model = load_model(run, data.label_names, pad_token_id, notes).to(self.device)
        notes["notes"] = told(notes)
        for note in notes["notes"]:
            print(f"note: {note}", file=sys.stderr)
        with self.lock.shared():
            self.fitted = fit(
                self.model,
                run.sparsity,
                self.sparsities,
                lambda: self._batches(run.calibration.batches),
                lambda: autocast(run.train, self.device),
            )
        self.kept = kept_of(self.model, self.fitted.sparsities)
        if self.fitted.curves is not None:
            self.record.content["calibrated_schedule"] = {
                "levels": LEVELS,
                "errors": self.fitted.curves,
                "sparsities": self.fitted.sparsities,
            }
        if run.measure.timing is Timing.both:
            self.record.content["timing_before"] = self._time()
        with self.lock.shared():
            began = perf_counter()
            handle = (
                None
                if self.dense_run
                else sparsify(self.model, self.fitted.config, self.fitted.calibration)
            )
            faster = accelerate(self.model) if handle is None else None
            self.record.content["calibration_seconds"] = (
                self.fitted.seconds + perf_counter() - began
            )
        give_back_freed_memory()  # of an earlier run of the process, or of calibration
        self.memory = PeakMemory(self.device)
        set_seed(run.seed)  # the same dropout and order whatever was drawn while setting up
        try:
            self._train(plan, handle)
        except TrainingError:
            self._summarise(plan, handle)
            raise  # its weights are spoilt and worth nothing
        except BaseException:
            self._finish(plan, handle)
            raise
        self._finish(plan, handle)
        if run.measure.test:
            self._test(plan)
        for patch in (handle, faster):
            if patch is not None:
                patch.remove()
        self.trained = True
        (self.record.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        if run.measure.timing is not Timing.none:
            try:
                self._say_speed(plan)
            except Exception as error:  # what was trained is whole, and stays so
                self.record.content["timing_error"] = f"{type(error).__name__}: {error}"

    def _train(self, plan: StepPlan, handle: SparsityHandle | None) -> None:
        run = self.run
        stepper = Stepper(self.model, run.train, plan.total_steps, self.device, self.task.loss)
        done = (
            0 if run.train.resume is None else self._resume(Path(run.train.resume), stepper, handle)
        )
        batches = training_batches(
            self.tokenizer, self.tokenized["train"], run.train.batch_size, run.seed
        )
        if run.measure.eval_first and not done:
            self._validate(0, 0.0)
        taken = done * run.train.gradient_accumulation_steps
        batches = itertools.islice(batches, taken, None)
        for row in train_steps(stepper, handle, batches, plan, self.lock, done):
            self.rows.append(row)
            self.record.add_step(row)
            if plan.evaluates_after(row.step):
                self._validate(row.step, plan.phases.shares(row.step))
                self._summarise(plan, handle)
            if plan.keeps_after(row.step):
                self._keep(stepper, handle)
            self.on_step(row, plan, self.latest)

    def _keep(self, stepper: Stepper, handle: SparsityHandle | None) -> None:
        progress = {
            "rows": [asdict(row) for row in self.rows],
            "evaluations": self.evaluations,
            "best": self.best,
            "best_state": self.best_state,
        }
        save_checkpoint(self.record.folder, self.model, stepper, handle, progress)

    def _resume(self, folder: Path, stepper: Stepper, handle: SparsityHandle | None) -> int:
        """Go on from another run's last state; → the steps it had done."""
        state = load_checkpoint(folder, self.run)
        progress = state["progress"]
        if self.keep_best and progress["best_state"]:  # the stopped run's own may be a later one
            load_adapter_state(self.model, progress["best_state"])
            save_adapter(self.model, self.tokenizer, self._adapter("best"))
        restore(state, self.model, stepper, handle)
        for row in progress["rows"]:
            self.rows.append(StepRow(**row))
            self.record.add_step(self.rows[-1])
        done = len(self.rows)
        self.evaluations, self.best = progress["evaluations"], progress["best"]
        self.best_state = progress["best_state"]
        self.latest = self.evaluations[-1] if self.evaluations else {}
        if self.evaluations:
            frame = pd.read_parquet(folder / PREDICTIONS_NAME)
            self.record.add_predictions(frame[frame["step"] <= done])
        self.record.content["resumed_from"] = {"folder": str(folder), "step": done}
        return done

    def _finish(self, plan: StepPlan, handle: SparsityHandle | None) -> None:
        self._summarise(plan, handle)
        if self.keep_last and self.rows:
            save_adapter(self.model, self.tokenizer, self._adapter("last"))

    def _validate(self, step: int, sparse_steps: float) -> None:
        scores = self._evaluate("validation", step)
        self.latest = {"step": step, "sparse_steps": sparse_steps, **scores}
        self.evaluations.append(self.latest)
        if self.best is None or self.latest["accuracy"] > self.best["accuracy"]:
            self.best = dict(self.latest)
            self.best_state = adapter_state(self.model)
            if self.keep_best:
                save_adapter(self.model, self.tokenizer, self._adapter("best"))

    def _batches(self, count: int) -> list[dict[str, torch.Tensor]]:
        """The first ones that training takes."""
        endless = training_batches(
            self.tokenizer, self.tokenized["train"], self.run.train.batch_size, self.run.seed
        )
        return list(itertools.islice(endless, count))

    def _time(self) -> dict[str, Any]:
        run = self.run
        batches = self._batches(run.measure.batches * run.train.gradient_accumulation_steps)
        timing = measure(
            self.model,
            None if self.dense_run else self.fitted.config,
            batches,
            run.train,
            run.measure,
            self.device,
            self.lock,
            self.on_round,
            calibration=self.fitted.calibration,
            loss=self.task.loss,
        )
        bound.add_bound(timing, self.model, run, self.kept, batches)
        return timing

    def _say_speed(self, plan: StepPlan) -> None:
        timing = self._time()
        content = self.record.content
        key = reference_key(self.run, device_name(self.device), torch.get_num_threads())
        reference = timing["stock_dense_ms"]
        if self.study is not None:
            reference = dense_reference(self.study, key, reference)
        content["timing"] = timing
        content["dense_reference_key"] = key
        content["dense_reference_ms"] = reference
        content["ms_per_step"] = reference / timing["speedup"]
        content["run_speedup"] = bound.run_speedup(
            timing, plan.phases, content["calibration_seconds"]
        )
        content["lock_wait_seconds"] = self.lock.waited_seconds
        self.record.save()

    def _test(self, plan: StepPlan) -> None:
        assert self.best is not None
        load_adapter_state(self.model, self.best_state)
        self.record.content["metrics"]["test"] = {
            "step": self.best["step"],
            **self._evaluate("test", self.best["step"]),
        }

    def _evaluate(self, name: str, step: int) -> dict[str, float]:
        evaluation = evaluate(
            self.model,
            self.task.reader(self.tokenizer),
            self.tokenizer,
            self.tokenized[name],
            self.run.measure.eval_batch_size,
            lambda: autocast(self.run.train, self.device),
            self.device,
            self.lock,
        )
        self.record.add_predictions(evaluation.predictions(self.data.splits[name], name, step))
        return evaluation.metrics()

    def _adapter(self, name: str) -> Path:
        return self.record.folder / ADAPTER_FOLDER / name

    def _steps_of_epochs(self, rows: int) -> int:
        train = self.run.train
        assert train.epochs is not None
        forward_passes = train.epochs * -(-rows // train.batch_size)
        return max(1, round(forward_passes / train.gradient_accumulation_steps))

    def _summarise(self, plan: StepPlan, handle: SparsityHandle | None) -> None:
        """Bring the record on disk up to what was reached."""
        self.record.content.update(
            summary.of_steps(self.rows, plan),
            metrics={"validation": self.latest or None, "best_validation": self.best, "test": None},
            parameters=summary.of_parameters(self.model),
            peak_memory_mb=self.memory.peak_mb(),
            sparsity=summary.of_sparsity(handle),
            evaluations=self.evaluations,
            flops=bound.of_flops(
                self.model,
                self.run,
                self.kept,
                bound.shapes_of(self.rows, self.run.train.gradient_accumulation_steps),
            ),
            lock_wait_seconds=self.lock.waited_seconds,
        )
        self.record.save()
