"""Sparse training under transformers' own `Trainer`."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparselora.sparse.patch import SparsityHandle


class SparsityCallback(TrainerCallback):
    """Switches a sparse model at each optimizer step, by its config's warm-up, ramp-up and cool-down.

    `evaluate()` and `predict()` are dense in any case, since the model is in evaluation mode there; when
    training ends, so are further training steps, until `handle.enable()`.

    Args:
        handle: from `sparsify(model, …)`, with the trainer's own model.
    """

    def __init__(self, handle: SparsityHandle) -> None:
        self.handle = handle

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Before the forward passes of one optimizer step."""
        self.handle.set_step(state.global_step + 1, state.max_steps)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """After the last one."""
        self.handle.disable()
