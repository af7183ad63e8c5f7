"""Prepare what a run needs before its first step, and a benchmark before its first round."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import set_seed

from sparselora.config.checks import check_sparse_steps, is_dense
from sparselora.config.schema import RunConfig
from sparselora.data.batches import TokenizedSplit, training_batches
from sparselora.data.load import LoadedData
from sparselora.machine.lock import DeviceLock
from sparselora.measuring.dimensions import kept_of
from sparselora.model.load import load_model, load_model_config, load_tokenizer
from sparselora.model.tasks import TASKS, Task
from sparselora.model.token_checks import check_tokens
from sparselora.runs.checks import load_run_data
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.phases import Phases
from sparselora.training.calibration_cache import Fitted, fit
from sparselora.training.loop import StepPlan
from sparselora.training.stepper import autocast


class Inputs(Protocol):
    """Feed a model: its tokenizer, labels and batches."""

    @property
    def tokenizer(self) -> Any:
        """Return what the texts are tokenized with."""
        ...

    @property
    def label_names(self) -> Sequence[str]:
        """Return the labels, in the order of their indices."""
        ...

    @property
    def notes(self) -> dict[str, Any]:
        """Return what was found out about the model so far, for its record."""
        ...

    def batches(self, count: int) -> list[dict[str, Tensor]]:
        """Return the first batches that training takes."""
        ...


@dataclass(frozen=True)
class DataInputs:
    """Hold the examples of a run as tokens, checked against the model that will read them."""

    run: RunConfig
    tokenizer: Any
    data: LoadedData
    tokenized: Mapping[str, TokenizedSplit]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def label_names(self) -> Sequence[str]:
        """Return the labels, in the order of their indices."""
        return self.data.label_names

    def batches(self, count: int) -> list[dict[str, Tensor]]:
        """Return the first batches that training takes."""
        train = self.run.train
        endless = training_batches(
            self.tokenizer, self.tokenized["train"], train.batch_size, self.run.seed
        )
        return list(itertools.islice(endless, count))


@dataclass(frozen=True)
class Prepared:
    """Hold a model that is ready to be made sparse, and everything that its steps take."""

    run: RunConfig
    device: torch.device
    task: Task
    inputs: Inputs
    model: PeftModel
    fitted: Fitted
    """What calibration made of the settings."""
    kept: list[int]
    """Channels that a sparse step computes in each layer."""
    dense: bool
    """Whether the run is plain LoRA."""

    @property
    def sparsity(self) -> SparsityConfig | None:
        """Return the settings to make the model sparse with; None in plain LoRA."""
        return None if self.dense else self.fitted.config

    def autocast(self) -> torch.autocast:
        """Return a new context for a forward pass."""
        return autocast(self.run.train, self.device)


def read_inputs(
    run: RunConfig,
    lock: DeviceLock,
    tokenizer: Any = None,
    notes: dict[str, Any] | None = None,
    splits: Sequence[str] | None = None,
) -> DataInputs:
    """Load the run's data and tokenize them.

    Args:
        run: whose data, tokenizer and task are meant.
        lock: of the device, held shared meanwhile.
        tokenizer: the run's, where it is loaded already.
        notes: takes what is found out about the model's tokenizer.
        splits: those to tokenize; all of them if None.

    Raises:
        UserError: see `load_run_data` and `check_tokens`.
    """
    notes = {} if notes is None else notes
    with lock.shared():
        data = load_run_data(run)
        tokenizer = tokenizer or load_tokenizer(run.model, notes)
        tokenized = {
            name: TASKS[run.task.name].tokenize(tokenizer, split, run)
            for name, split in data.splits.items()
            if splits is None or name in splits
        }
    check_tokens(run, tokenizer, tokenized, load_model_config(run.model))
    return DataInputs(run, tokenizer, data, tokenized, notes)


def step_plan(run: RunConfig, sparsities: Sequence[float], rows: int) -> StepPlan:
    """Plan the run's steps: how many, and which of them are sparse.

    Args:
        run: with its number of steps, or of epochs.
        sparsities: asked of each layer.
        rows: examples of an epoch.

    Raises:
        UserError: no step would be sparse, in a run that is not plain LoRA.
    """
    total = run.train.max_steps or _steps_of_epochs(run, rows)
    dense = is_dense(run, sparsities)
    if not dense:
        check_sparse_steps(run, total)
    phases = Phases.all_dense(total) if dense else run.phases(total)
    return StepPlan(phases, run.measure.eval_every, run.train.checkpoint_every)


def prepare(
    run: RunConfig,
    sparsities: Sequence[float],
    inputs: Inputs,
    device: torch.device,
    lock: DeviceLock,
    on_model: Callable[[], None] = lambda: None,
) -> Prepared:
    """Load the model and calibrate what its sparsity asks for; torch's seed is set first.

    Args:
        run: the checked settings.
        sparsities: asked of each layer, from `check_model`.
        inputs: what calibration runs on; its notes take what loading finds out.
        device: that the model goes to.
        lock: of the device, held shared meanwhile.
        on_model: called once the model is loaded, before calibration, which can take minutes.
    """
    set_seed(run.seed)
    with lock.shared():
        model = load_model(run, inputs.label_names, inputs.tokenizer.pad_token_id, inputs.notes)
        model = model.to(device)
    on_model()
    with lock.shared():
        fitted = fit(
            model,
            run.sparsity,
            sparsities,
            lambda: inputs.batches(run.calibration.batches),
            lambda: autocast(run.train, device),
        )
    kept = kept_of(model, fitted.sparsities)
    dense = is_dense(run, sparsities)
    return Prepared(run, device, TASKS[run.task.name], inputs, model, fitted, kept, dense)


def _steps_of_epochs(run: RunConfig, rows: int) -> int:
    train = run.train
    assert train.epochs is not None
    forward_passes = train.epochs * -(-rows // train.batch_size)
    return max(1, round(forward_passes / train.gradient_accumulation_steps))
