"""Modules that stand in a model for those whose place they take.

Each shares the state of its original and is of its class, with a method of its own before that one's, so
that PEFT finds adapters there, to switch them off or to merge them, and names stay what they were.
"""

from typing import Any, Self

from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.mixed import mixed, sharing
from sparselora.sparse.sparse_attention import SparseAttention
from sparselora.sparse.sparse_ffn import SparseFFN
from sparselora.sparse.state import SparsityState

HELD = "_sparselora_held"
"""Where a stand-in holds what it computes by."""


def _enabled(state: SparsityState, module: nn.Module) -> bool:
    sparse = state.sparse
    if sparse and getattr(module, "_is_replica", False):
        raise UserError(
            "model: sparse blocks cannot run under nn.DataParallel, whose replicas share them; "
            "start one process a device with torchrun (DistributedDataParallel)"
        )
    return sparse


def _block_is_sparse(module: nn.Module) -> bool:
    """Only while switched on and training: evaluation is always dense."""
    ffn: SparseFFN = module.__dict__[HELD][0]
    return ffn.training and _enabled(ffn.state, module)


class _PassThrough:
    """Mixed into the class of lin1 and of the activation: their input, unchanged, while sparse."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        module: Any = self
        output: Tensor
        if _block_is_sparse(module):
            output = hidden_states
        else:
            output = whole.forward(hidden_states, *args, **kwargs)
        return output


class _SparseOutput:
    """Mixed into the class of lin2, or of the block: the whole block from its input, while sparse.

    Its mode is the block's: the stand-ins of one block are never of two minds.
    """

    def train(self, mode: bool = True) -> Self:
        whole: Any = super()
        module: Any = self
        module.__dict__[HELD][0].training = mode
        trained: Self = whole.train(mode)
        return trained

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        module: Any = self
        output: Tensor
        if _block_is_sparse(module):
            output = module.__dict__[HELD][0].forward(hidden_states)
        else:
            output = whole.forward(hidden_states, *args, **kwargs)
        return output


class _Projection:
    """Mixed into the class of an attention map: its kept rows, or for output its kept columns."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        module: Any = self
        sparse, role = module.__dict__[HELD]
        output: Tensor
        if args or kwargs or not (module.training and _enabled(sparse.state, module)):
            output = whole.forward(hidden_states, *args, **kwargs)
        else:
            output = sparse.project(role, hidden_states, whole.forward)
        return output


def is_sparse_projection(module: nn.Module) -> bool:
    """Whether this is an attention map whose channels are left out now."""
    return isinstance(module, _Projection) and module.__dict__[HELD][0].state.sparse


def pass_through(original: nn.Module, ffn: SparseFFN) -> nn.Module:
    """What stands in for lin1, or the activation."""
    return _holding(original, _PassThrough, ffn)


def sparse_output(original: nn.Module, ffn: SparseFFN) -> nn.Module:
    """What stands in for lin2, or for a block that is a module."""
    ffn.training = original.training
    return _holding(original, _SparseOutput, ffn)


def projection(original: nn.Module, sparse: SparseAttention, role: str) -> nn.Module:
    """What stands in for one map of the attention."""
    return _holding(original, _Projection, sparse, role)


def check_forward(module: nn.Module, where: str) -> None:
    """Raise a `UserError` where a module has a forward of its own, beside its class's."""
    if "forward" in module.__dict__:
        raise UserError(
            f"model: {where} has a forward of its own, as accelerate gives modules that it places "
            "(device_map); place the model on one device as a whole"
        )


def put_back(
    parent: nn.Module, path: str, original: nn.Module, stand_in: nn.Module, held: str | None = HELD
) -> None:
    """The original in its place again, unless another module has been put there since."""
    if held is not None:
        stand_in.__dict__.pop(held, None)
    # The very state, of a deep copy too, which copies the two apart.
    object.__setattr__(original, "__dict__", stand_in.__dict__)
    if parent.get_submodule(path) is stand_in:
        parent.set_submodule(path, original)


def _holding(original: nn.Module, mixin: type, *held: Any) -> nn.Module:
    # In a tuple: a module held directly would become a child and enter the state dict.
    original.__dict__[HELD] = held
    return sharing(original, mixed(mixin, type(original)))
