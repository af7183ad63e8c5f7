"""Train sparsely under transformers' own `Trainer`, and what is built on it."""

import base64
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from sparselora.errors import UserError
from sparselora.sparse.channels.call_hooks import state_of
from sparselora.sparse.patch import SparsityHandle

SAVED = "sparsity"
"""Attribute under which a trainer's checkpoint holds what the handle's steps have left behind."""


class SparsityCallback(TrainerCallback, ExportableState):
    """Switch a sparse model at each optimizer step, by its config's warm-up, ramp-up and cool-down.

    `evaluate()` and `predict()` are dense in any case, and so is every call without gradients; when
    training ends, further training steps are dense too, until `handle.enable()`. A trainer's checkpoints
    hold what the handle has to know to go on to the digit, in `trainer_state.json`.

    Args:
        handle: from `sparsify(model, …)`, with the trainer's own model; None finds it by that model,
            which `model_init` may make.

    Raises:
        UserError: when training begins, and the trainer's model is not sparse, or not the handle's; when
            the trainer is made, and it shards the model (FSDP).
    """

    def __init__(self, handle: SparsityHandle | None = None) -> None:
        self.handle = handle

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint of the trainer holds, in plain values."""
        saved = None if self.handle is None else to_plain(self.handle.state_dict())
        return {"args": {}, "attributes": {SAVED: saved}}

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Refuse what shards the model, before it is wrapped."""
        if getattr(args, "fsdp", None):
            raise UserError(
                "fsdp: sparse blocks need whole weights on each device, which FSDP shards; leave it out "
                "(several processes train by DistributedDataParallel then)"
            )

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Check the model, and go on from a checkpoint that the trainer resumes."""
        self.handle = self._handle_of(kwargs["model"])
        if state.global_step:
            stored = (state.stateful_callbacks or {}).get(type(self).__name__)
            newest = stored[-1] if isinstance(stored, list) else stored
            saved = (newest or {}).get("attributes", {}).get(SAVED)
            if saved is not None:
                self.handle.load_state_dict(from_plain(saved))

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Switch before the forward passes of one optimizer step."""
        assert self.handle is not None
        self.handle.set_step(state.global_step + 1, state.max_steps)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Switch off after the last one."""
        assert self.handle is not None
        self.handle.disable()

    def _handle_of(self, model: nn.Module) -> SparsityHandle:
        found = state_of(model)
        if self.handle is None:
            if found is None or found.handle is None:
                raise UserError(
                    "SparsityCallback: the trainer's model is not sparse; call sparselora.sparsify on "
                    "the model before it is given to the trainer (inside model_init, where that is used)"
                )
            handle: SparsityHandle = found.handle
            return handle
        if found is not self.handle.state:
            raise UserError(
                "SparsityCallback: the handle is of another model than the one that the trainer trains "
                "(model_init makes a new one for each run); call sparsify on the trainer's own model, "
                "and leave the handle out where model_init does so: SparsityCallback()"
            )
        return self.handle


def to_plain(value: Any) -> Any:
    """Return nested values with each tensor as a mapping of text, so that JSON holds it exactly."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        return {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "bytes": base64.b64encode(
                tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            ).decode(),
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    return value


def from_plain(value: Any) -> Any:
    """Return what `to_plain` was given; tuples are lists."""
    if isinstance(value, Mapping):
        if value.keys() == {"dtype", "shape", "bytes"}:
            raw = bytearray(base64.b64decode(value["bytes"]))
            dtype = getattr(torch, value["dtype"])
            if not raw:
                return torch.empty(value["shape"], dtype=dtype)
            return torch.frombuffer(raw, dtype=dtype).reshape(value["shape"])
        return {key: from_plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [from_plain(each) for each in value]
    return value
