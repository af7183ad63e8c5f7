"""Hold the models that are timed against each other: stock PEFT LoRA, our dense path, our sparse one."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sparselora.config.groups import TrainConfig
from sparselora.machine.memory import step_memory
from sparselora.machine.timer import StepTimer
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.backbone.attention import find_attention
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.moments import Calibration
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.patch import SparsityHandle, sparsify
from sparselora.sparse.tensors import tensors_in
from sparselora.training.stepper import Loss, Stepper

STOCK, AGAIN, OWN, SPARSE = "stock", "stock_again", "own_dense", "sparse"


FAST_AGAIN = "fast_again"
"""A second step of what the speed-up is of: the sparse path, or our dense one in plain LoRA."""


SCHEDULE_STEPS = 1_000_000
"""Length of the arms' learning-rate schedule: no arm comes to its end."""


def fast_arm(sparsity: SparsityConfig | None) -> str:
    """Return the arm that the speed-up is of: the sparse one, or our dense one in plain LoRA."""
    return OWN if sparsity is None else SPARSE


class Arms:
    """Hold the models that are timed against each other.

    Frozen weights are shared with `model`, but for those that a patch lays out anew, so two copies
    cost little; what trains is copied.

    Args:
        model: not patched.
        sparsity: of the sparse arm; None where the run is plain LoRA, which has no such arm.
        train: settings of the optimizer.
        device: of `model`.
        calibration: where `sparsity` needs it.
        loss: of our arms; stock's is the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: SparsityConfig | None,
        train: TrainConfig,
        device: torch.device,
        calibration: Calibration | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.device = device
        relaid = _relaid(model, sparsity)
        stock, own = _copy(model, relaid), _copy(model, relaid)
        self.models = {STOCK: stock, OWN: own}
        self.handle: SparsityHandle | None = None
        if sparsity is None:
            accelerate(own)
        else:
            self.handle = sparsify(own, sparsity, calibration)
            self.handle.disable()
        steppers = {
            name: Stepper(arm, train, SCHEDULE_STEPS, device, None if name == STOCK else loss)
            for name, arm in self.models.items()
        }
        self.names = list(dict.fromkeys([STOCK, AGAIN, OWN, fast_arm(sparsity), FAST_AGAIN]))
        self._stepper_of = {
            name: steppers[STOCK if name in (STOCK, AGAIN) else OWN] for name in self.names
        }

    def step(self, name: str, micro_batches: Sequence[dict[str, Tensor]]) -> StepTimer:
        """Do one optimizer step of one arm; return its timer."""
        if self.handle is not None:
            (self.handle.enable if name in (SPARSE, FAST_AGAIN) else self.handle.disable)()
        return self._stepper_of[name].step(micro_batches)[2]

    def memory(
        self, name: str, micro_batches: Sequence[dict[str, Tensor]]
    ) -> dict[str, float | None]:
        """Measure the memory of one step of one arm, as `step_memory` does."""
        held = [*tensors_in(dict(self._stepper_of[name].optimizer.state))]
        if self.handle is not None and name != STOCK:
            held += self.handle.held()
        model = self.models[STOCK if name == STOCK else OWN]
        return step_memory(model, partial(self.step, name, micro_batches), self.device, held)


def _relaid(model: nn.Module, sparsity: SparsityConfig | None) -> set[int]:
    """Return the ids of the frozen weights that a patch lays out anew."""
    scattered = [block.scattered() for block in find_blocks(model)]
    if sparsity is not None and sparsity.sparsifies_attention:
        scattered += [attention.scattered() for attention in find_attention(model)]
    return {id(weight) for weights in scattered for weight in weights}


def _copy(model: nn.Module, relaid: set[int]) -> nn.Module:
    shared = {
        id(parameter): parameter
        for parameter in model.parameters()
        if not parameter.requires_grad and id(parameter) not in relaid
    }
    return copy.deepcopy(model, shared)
