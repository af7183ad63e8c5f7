"""Wrap the modules of a sparse block: what each computes in place of its own forward, in training mode.

A module that another puts in the place of one of these, or around it, makes its block dense at once: what
hands its input on asks first whether the rest of the block is there to compute it, in this very call.
"""

from typing import Any

from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.blocks.attention import SparseAttention
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.compat import REPLICA
from sparselora.sparse.swap import HELD, put_on, take_off


def _enabled(state: SparsityState, module: nn.Module) -> bool:
    sparse = state.sparse
    if sparse and getattr(module, REPLICA, False):
        raise UserError(
            "model: sparse blocks cannot run under nn.DataParallel, whose replicas share them; "
            "start one process a device with torchrun (DistributedDataParallel)"
        )
    return sparse


def _held(module: nn.Module) -> tuple[Any, ...] | None:
    """Return what a wrapper computes by; None where it was taken back, or copied out of its model."""
    held: tuple[Any, ...] | None = module.__dict__.get(HELD)
    return None if held is None or held[0] is None else held


def _block_is_sparse(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the block is sparse: only while switched on and training."""
    held = _held(module)
    if held is None or not module.training or not _enabled(held[0].state, module):
        return False
    ffn: SparseFFN = held[0]
    if not ffn.computes():
        return False
    if args or kwargs:
        raise UserError(
            f"model: {ffn.block.name}'s FFN is called with more than hidden states "
            f"({', '.join(kwargs) or 'positional arguments'}), as some kinds of adapters ask for; a "
            "sparse block takes none (handle.disable() makes it dense)"
        )
    return True


class _PassThrough:
    """Hand the input on, unchanged, while sparse: mixed into the class of lin1 and of the activation."""

    RANK = 1

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parent: Any = super()
        module: Any = self
        output: Tensor
        if _block_is_sparse(module, args, kwargs):
            output = hidden_states
        else:
            output = parent.forward(hidden_states, *args, **kwargs)
        return output


class _SparseOutput:
    """Compute the block from its input while sparse: mixed into the class of lin2, or of the block."""

    RANK = 1

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parent: Any = super()
        module: Any = self
        output: Tensor
        if _block_is_sparse(module, args, kwargs):
            output = module.__dict__[HELD][0].forward(hidden_states)
        else:
            output = parent.forward(hidden_states, *args, **kwargs)
        return output


class _Projection:
    """Compute an attention's projection by its kept rows, or for output by its kept columns."""

    RANK = 1

    @property
    def needs_all_tokens(self) -> bool:
        """Return whether channels are left out now: they are chosen by all tokens that come in."""
        module: Any = self
        held = _held(module)
        return held is not None and held[0].state.sparse

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parent: Any = super()
        module: Any = self
        held = _held(module)
        output: Tensor
        if held is None or args or kwargs or not module.training:
            output = parent.forward(hidden_states, *args, **kwargs)
            return output
        sparse, role = held
        if _enabled(sparse.state, module):
            output = sparse.project(role, hidden_states, parent.forward)
        else:
            output = parent.forward(hidden_states)
        return output


def wrap_ffn(ffn: SparseFFN, owner: int) -> list[nn.Module]:
    """Have the modules of a block compute it sparsely, and return them."""
    paths = ffn.block.paths
    modules = [ffn.block.layer.get_submodule(path) for path in paths]
    for module in modules:
        _hold(module, _SparseOutput if module is modules[-1] else _PassThrough, owner, ffn)
    return modules


def wrap_attention(sparse: SparseAttention, owner: int) -> list[nn.Module]:
    """Have the projections of an attention compute their kept channels, and return them."""
    modules = [sparse.attention.projections[role].module for role in sparse.roles]
    for module, role in zip(modules, sparse.roles, strict=True):
        _hold(module, _Projection, owner, sparse, role)
    return modules


def unwrap(module: nn.Module, owner: int) -> None:
    """Have a module compute what it did before an owner made it sparse."""
    if any(
        mixin in (_PassThrough, _SparseOutput, _Projection) for mixin in take_off(module, owner)
    ):
        module.__dict__.pop(HELD, None)


def _hold(module: nn.Module, mixin: type, owner: int, *held: Any) -> None:
    # In a tuple: a module held directly would become a child and enter the state dict.
    module.__dict__[HELD] = held
    put_on(module, mixin, owner)
