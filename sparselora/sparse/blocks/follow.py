"""Have sparse blocks follow what PEFT puts in the place of their modules, or around them."""

from typing import Any

import torch
from torch import nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.ffn import find_block
from sparselora.sparse.blocks.attention import SparseAttention
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.blocks.stand_in import unwrap, wrap_attention, wrap_ffn
from sparselora.sparse.channels.state import SparsityState


class FollowModel:
    """Find out, before a sparse training call of the backbone, what was changed in its modules.

    A forward pre-hook, after the one that notes the batch. It looks for what was changed since
    the last call: adapters that were added, switched, merged or taken away, weights that train now. A
    block goes on with the modules that are there, or the call is refused.
    """

    def __init__(
        self,
        state: SparsityState,
        ffns: list[SparseFFN],
        attentions: list[SparseAttention],
        owner: int,
    ) -> None:
        self.state, self.ffns, self.attentions, self.owner = state, ffns, attentions, owner

    def __call__(self, backbone: nn.Module, args: tuple[Any, ...]) -> None:
        """Have each block go on with the modules that are there.

        Raises:
            UserError: a block cannot be sparse with what was put there.
        """
        call = self.state.call
        if torch.compiler.is_compiling() or call is None or not (call.sparse and call.trains):
            return
        try:
            for ffn in self.ffns:
                self._follow_ffn(ffn)
            for attention in self.attentions:
                self._follow_attention(attention)
        except UserError as error:
            raise UserError(
                f"{error} (changed after sparsify: call remove() on its handle, or disable() for dense "
                "steps)"
            ) from error

    def _follow_ffn(self, ffn: SparseFFN) -> None:
        block = ffn.block
        if block.is_current:
            block.check_sliceable()
            return
        for module in ffn.modules:
            unwrap(module, self.owner)
        now = find_block(block.architecture, block.layer, block.name)
        now.check_sliceable()
        sizes = [(each.hidden_size, each.intermediate_size) for each in (block, now)]
        if sizes[0] != sizes[1]:
            raise UserError(f"model: {block.name}'s FFN is {sizes[1]} now, and was {sizes[0]}")
        ffn.follow(now)
        wrap_ffn(ffn, self.owner)

    def _follow_attention(self, sparse: SparseAttention) -> None:
        attention, roles, queries = sparse.attention, sparse.roles, bool(sparse.qk_sparsity)
        if attention.is_current:
            attention.check_sliceable(roles, queries)
            return
        for linear in attention.projections.values():
            unwrap(linear.module, self.owner)
        now = attention.looked_up()
        now.check_sliceable(roles, queries)
        sparse.follow(now)
        wrap_attention(sparse, self.owner)
