"""Modules that stand in a model for those whose place they take."""

from typing import Any, Protocol, Self

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparselora.errors import UserError
from sparselora.sparse.lora import FastLoraLinear
from sparselora.sparse.sparse_attention import SparseAttention
from sparselora.sparse.sparse_ffn import SparseFFN
from sparselora.sparse.state import SparsityState


class Sparse(Protocol):
    """What a stand-in computes by."""

    state: SparsityState
    training: bool


class StandIn(nn.Module):
    """Stands in a model for `original`, whose parameters, buffers and children it shares."""

    def __init__(self, original: nn.Module, sparse: Any) -> None:
        super().__init__()
        self._parameters = original._parameters
        self._buffers = original._buffers
        self._modules = original._modules
        self.training = original.training
        # Held in a tuple: a module held directly would become a child and enter the state dict.
        self._original = (original,)
        self._sparse: tuple[Any] = (sparse,)

    @property
    def active(self) -> bool:
        """Sparse only while switched on and training: evaluation is always dense."""
        sparse: Sparse = self._sparse[0]
        if sparse.state.enabled and getattr(self, "_is_replica", False):
            raise UserError(
                "model: sparse blocks cannot run under nn.DataParallel, whose replicas share them; "
                "start one process a device with torchrun (DistributedDataParallel)"
            )
        return sparse.training and sparse.state.enabled

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._original[0].training = mode
        return self


class PassThrough(StandIn):
    """For lin1 and the activation: their input, unchanged, while sparse."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.active:
            return hidden_states
        output: Tensor = self._original[0](hidden_states)
        return output


class SparseOutput(StandIn):
    """For lin2, or the block as a module: the whole block from the block's input, while sparse.

    Its mode is the block's: the stand-ins of one block are never of two minds.
    """

    def __init__(self, original: nn.Module, sparse: SparseFFN) -> None:
        super().__init__(original, sparse)
        sparse.training = self.training

    def train(self, mode: bool = True) -> Self:
        self._sparse[0].training = mode
        return super().train(mode)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.active:
            output: Tensor = self._sparse[0].forward(hidden_states)
        else:
            output = self._original[0](hidden_states)
        return output


class _Projection:
    """Mixed into the class of an attention map: its kept rows, or for output its kept columns.

    Such a module shares the state of the one whose place it takes, and is of its class, so that PEFT
    finds its adapter, to switch it off or to merge it.
    """

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        sparse, role = self.__dict__[HELD]
        output: Tensor
        if args or kwargs or not (self.__dict__["training"] and sparse.active):
            output = whole.forward(hidden_states, *args, **kwargs)
        else:
            output = sparse.project(role, hidden_states, whole.forward)
        return output


HELD = "_sparse_projection"
"""Where such a module holds what it computes by."""


class SparseLoraLinear(_Projection, FastLoraLinear):  # type: ignore[misc]
    """For a map with LoRA."""


class SparseLinear(_Projection, nn.Linear):  # type: ignore[misc]
    """For a map without."""


class SparseConv1D(_Projection, Conv1D):
    """For GPT-2's."""


PROJECTIONS: dict[type[nn.Module], type[nn.Module]] = {
    FastLoraLinear: SparseLoraLinear,
    nn.Linear: SparseLinear,
    Conv1D: SparseConv1D,
}
"""Class of an attention map → what stands in for it."""


def projection(original: nn.Module, sparse: SparseAttention, role: str) -> nn.Module:
    """What stands in for one map of the attention."""
    original.__dict__[HELD] = (sparse, role)
    return sharing(original, PROJECTIONS[type(original)])


def sharing(original: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A module of class `kind` with the very state of `original`."""
    stand_in = kind.__new__(kind)
    object.__setattr__(stand_in, "__dict__", original.__dict__)
    return stand_in


def mixed(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    """`kind` with the methods of `mixin` before its own; the same class each time."""
    if (mixin, kind) not in _MIXED:
        _MIXED[mixin, kind] = type(f"Fast{kind.__name__}", (mixin, kind), {})
    return _MIXED[mixin, kind]


_MIXED: dict[tuple[type, type[nn.Module]], type[nn.Module]] = {}
