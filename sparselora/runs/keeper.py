"""Keep a run's folder up to what its training has reached: record, adapters, checkpoint."""

from pathlib import Path

import pandas as pd

from sparselora.machine.lock import DeviceLock
from sparselora.machine.memory import PeakMemory
from sparselora.measuring import bound
from sparselora.records.costs import Flops
from sparselora.records.record import PREDICTIONS_NAME, RunRecord
from sparselora.records.sections import Metrics, Resumed, Scores
from sparselora.records.typed import build
from sparselora.runs import summary
from sparselora.runs.history import History
from sparselora.runs.setup import DataInputs, Prepared
from sparselora.sparse.patch import SparsityHandle
from sparselora.training.adapters import (
    ADAPTER_FOLDER,
    adapter_state,
    load_adapter_state,
    save_adapter,
)
from sparselora.training.checkpoint import (
    CHECKPOINT_NAME,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from sparselora.training.evaluate import evaluate
from sparselora.training.loop import StepPlan, StepRow
from sparselora.training.stepper import Stepper


class Keeper:
    """Bring what was reached to a run's folder, so that it stands there at any end.

    Args:
        record: of the run.
        prepared: its model and settings.
        inputs: its examples.
        plan: of its steps.
        handle: the model's patch; None in plain LoRA.
        lock: of the device.
        keep_last: whether the adapter of the last step is written beside the best one.
    """

    def __init__(
        self,
        record: RunRecord,
        prepared: Prepared,
        inputs: DataInputs,
        plan: StepPlan,
        handle: SparsityHandle | None,
        lock: DeviceLock,
        keep_last: bool,
    ) -> None:
        run = prepared.run
        self.record, self.run, self.prepared, self.inputs = record, run, prepared, inputs
        self.plan, self.handle, self.lock = plan, handle, lock
        self.keep_best = run.train.keep_checkpoints.name != "none" and not run.model.random_init
        self.keep_last = keep_last and self.keep_best
        self.history = History()
        self.memory = PeakMemory(prepared.device)

    def add_step(self, row: StepRow) -> None:
        """Add a step to the history and to the disk."""
        self.history.rows.append(row)
        self.record.add_step(row)

    def validate(self, step: int) -> None:
        """Evaluate the validation split; keep the adapter if it is the best so far."""
        sparse_steps = self.plan.phases.shares(step) if step else 0.0
        scores = self._evaluate("validation", step, sparse_steps)
        best = self.history.add(scores, lambda: adapter_state(self.prepared.model))
        if best and self.keep_best:
            self._save_adapter("best")

    def test(self) -> None:
        """Evaluate the test split with the best adapter, which the model then holds."""
        best = self.history.best
        assert best is not None
        assert best.step is not None
        assert self.record.content.metrics is not None
        load_adapter_state(self.prepared.model, self.history.best_state)
        self.record.content.metrics.test = self._evaluate("test", best.step)

    def save_checkpoint(self, stepper: Stepper) -> None:
        """Put the state after a step in place of the folder's earlier one."""
        progress = self.history.state_dict()
        save_checkpoint(self.record.folder, self.prepared.model, stepper, self.handle, progress)

    def resume(self, folder: Path, stepper: Stepper) -> int:
        """Go on from the last state of the run in another folder; return the steps that it had done."""
        state = load_checkpoint(folder, self.run)
        model, best_state = self.prepared.model, state["progress"]["best_state"]
        if self.keep_best and best_state:  # the stopped run's own may be a later one
            load_adapter_state(model, best_state)
            self._save_adapter("best")
        restore(state, model, stepper, self.handle)
        self.history.load_state_dict(state["progress"])
        for row in self.history.rows:
            self.record.add_step(row)
        done = len(self.history.rows)
        if self.history.evaluations:
            frame = pd.read_parquet(folder / PREDICTIONS_NAME)
            self.record.add_predictions(frame[frame["step"] <= done])
        self.record.content.resumed_from = Resumed(folder=str(folder), step=done)
        return done

    def summarise(self) -> None:
        """Bring the record on disk up to what was reached."""
        content, history, prepared = self.record.content, self.history, self.prepared
        passes = self.run.train.gradient_accumulation_steps
        shapes = bound.shapes_of(history.rows, passes)
        flops = bound.of_flops(prepared.model, self.run, prepared.kept, shapes)
        content.steps = summary.of_steps(history.rows, self.plan)
        content.tokens = summary.of_tokens(history.rows)
        content.step_time_ms = summary.of_times(history.rows)
        content.metrics = Metrics(
            validation=history.latest, best_validation=history.best, test=None
        )
        content.parameters = summary.of_parameters(prepared.model)
        content.peak_memory_mb = self.memory.peak_mb()
        content.sparsity = summary.of_sparsity(self.handle)
        content.evaluations = history.evaluations
        content.flops = None if flops is None else build(Flops, flops)
        content.lock_wait_seconds = self.lock.waited_seconds
        self.record.save()

    def finish(self) -> None:
        """Keep what was reached, the adapter of the last step included."""
        self.summarise()
        if self.keep_last and self.history.rows:
            self._save_adapter("last")

    def drop_checkpoint(self) -> None:
        """Delete the state that nobody needs once training is complete."""
        (self.record.folder / CHECKPOINT_NAME).unlink(missing_ok=True)

    def _evaluate(self, name: str, step: int, sparse_steps: float | None = None) -> Scores:
        prepared, tokenizer = self.prepared, self.inputs.tokenizer
        evaluation = evaluate(
            prepared.model,
            prepared.task.reader(tokenizer),
            tokenizer,
            self.inputs.tokenized[name],
            self.run.measure.eval_batch_size,
            prepared.autocast,
            prepared.device,
            self.lock,
        )
        rows = evaluation.predictions(self.inputs.data.splits[name], name, step)
        self.record.add_predictions(rows)
        values = {"step": step, "sparse_steps": sparse_steps, **evaluation.metrics()}
        return build(Scores, values)

    def _save_adapter(self, name: str) -> None:
        folder = self.record.folder / ADAPTER_FOLDER / name
        save_adapter(self.prepared.model, self.inputs.tokenizer, folder)
