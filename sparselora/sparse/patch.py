"""Makes a model sparse while it trains, and takes it back exactly.

A block that is a module of its own is swapped for a stand-in that computes it sparsely. Elsewhere three
module instances are: lin1 and the activation hand their input through, and lin2 computes the whole block
sparsely. A stand-in shares the parameters of what it stands
for, so names, state dict and optimizer see no difference. No class is touched.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.schedule import kept_channels, layer_sparsities
from sparselora.sparse.blocks import FFNBlock, find_blocks, get_backbone
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.estimator import build_estimator
from sparselora.sparse.ffn import SparseFFN, SparsityState


class StandIn(nn.Module):
    """Stands in a model for `original`, whose parameters, buffers and children it shares."""

    def __init__(self, original: nn.Module, sparse: SparseFFN) -> None:
        super().__init__()
        self._parameters = original._parameters
        self._buffers = original._buffers
        self._modules = original._modules
        self.training = original.training
        # Held in a tuple: a module held directly would become a child and enter the state dict.
        self._original = (original,)
        self._sparse = (sparse,)

    @property
    def active(self) -> bool:
        """Sparse only while switched on and training: evaluation is always dense."""
        sparse = self._sparse[0]
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
            return self._sparse[0].forward(hidden_states)
        output: Tensor = self._original[0](hidden_states)
        return output


class NoteBatch:
    """Forward pre-hook of the backbone: tells the sparse blocks which batch is in hand.

    An object and not a closure, so that a deep copy of the model gets a hook and a state of its own.
    """

    def __init__(self, state: SparsityState) -> None:
        self.state = state

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(backbone.forward).bind_partial(*args, **kwargs).arguments
        self.state.begin_forward(arguments.get("attention_mask"))


@dataclass(frozen=True)
class LayerReport:
    """What one layer was asked for and what it did."""

    name: str
    intermediate_size: int
    kept: int
    """Channels that a sparse call computes; f for a layer that stays dense."""
    sparsity: float
    """1 − kept / f."""
    realised_sparsity: float | None
    """Counted in the calls themselves; None before the first sparse one."""


class SparsityHandle:
    """What `sparsify` returns: the switch, the report and the way back."""

    def __init__(self, model: nn.Module, blocks: list[FFNBlock], sparse: dict[str, SparseFFN]):
        self._blocks = blocks
        self._sparse = sparse
        self.state = next(iter(sparse.values())).state if sparse else SparsityState()
        self._removed = False
        self._swapped: list[tuple[nn.Module, str, nn.Module]] = []
        for ffn in sparse.values():
            self._swap_in(ffn)
        self._hook = get_backbone(model).register_forward_pre_hook(
            NoteBatch(self.state), with_kwargs=True
        )

    @property
    def enabled(self) -> bool:
        """Whether training steps are sparse now."""
        return self.state.enabled

    def enable(self) -> None:
        """Training steps are sparse from now on."""
        if self._removed:
            raise RuntimeError("this model was taken back by remove(); call sparsify() again")
        self.state.enabled = True

    def disable(self) -> None:
        """Training steps are dense from now on."""
        self.state.enabled = False

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Dense inside, as before outside, whatever happens in between."""
        before = self.state.enabled
        self.state.enabled = False
        try:
            yield
        finally:
            self.state.enabled = before

    def report(self) -> list[LayerReport]:
        """A row a layer, dense ones too, in order."""
        rows = []
        for block in self._blocks:
            ffn = self._sparse.get(block.name)
            kept = ffn.kept if ffn else block.intermediate_size
            rows.append(
                LayerReport(
                    name=block.name,
                    intermediate_size=block.intermediate_size,
                    kept=kept,
                    sparsity=1.0 - kept / block.intermediate_size,
                    realised_sparsity=ffn.realised_sparsity if ffn else 0.0,
                )
            )
        return rows

    def remove(self) -> None:
        """Put the original modules back: the same objects, the same memory layout."""
        if self._removed:
            return
        self.disable()
        self._hook.remove()
        for layer, path, original in self._swapped:
            layer.set_submodule(path, original)
        for ffn in self._sparse.values():
            lin2 = ffn.block.lin2
            lin2.weight.data = lin2.weight.data.contiguous()
        self._removed = True

    def _swap_in(self, ffn: SparseFFN) -> None:
        block, row = ffn.block, ffn.block.architecture
        # The columns of lin2 become rows in memory, so that all gathers read whole rows. The
        # parameter keeps its shape (d, f) and its values; only the strides change.
        block.lin2.weight.data = block.lin2.weight.data.t().contiguous().t()
        if row.whole is not None:
            sites: dict[str, type[StandIn]] = {row.whole: SparseOutput}
        else:
            sites = {row.lin1: PassThrough, row.activation: PassThrough, row.lin2: SparseOutput}
        for path, kind in sites.items():
            original = block.layer.get_submodule(path)
            self._swapped.append((block.layer, path, original))
            block.layer.set_submodule(path, kind(original, ffn))


def sparsify(model: nn.Module, config: SparsityConfig) -> SparsityHandle:
    """Make the FFN blocks of `model` sparse in training steps; starts switched on.

    Evaluation (`model.eval()`) is dense at all times. A layer of sparsity 0 is left untouched.

    Args:
        model: a transformers model whose FFN weights are frozen, as PEFT leaves them.
        config: see `SparsityConfig`.

    Raises:
        UserError: unknown architecture, a rank or a layer pattern that does not fit the model, FFN
            weights that train or that carry an adapter, a model that is sparse already.
    """
    hooks = get_backbone(model)._forward_pre_hooks.values()
    if any(isinstance(hook, NoteBatch) for hook in hooks):
        raise UserError("model: sparse already; call remove() on its handle first")
    blocks = find_blocks(model)
    for block in blocks:
        config.check_rank(block.hidden_size, block.intermediate_size)
    sparsities = layer_sparsities(
        config.rule, len(blocks), config.ffn_sparsity, config.layer_sparsity
    )
    state = SparsityState()
    sparse = {}
    for block, sparsity in zip(blocks, sparsities, strict=True):
        kept = kept_channels(sparsity, block.intermediate_size)
        if kept < block.intermediate_size:
            estimator = build_estimator(block, config)
            sparse[block.name] = SparseFFN(block, estimator, kept, config.estimator_tokens, state)
    handle = SparsityHandle(model, blocks, sparse)
    handle.enable()
    return handle
