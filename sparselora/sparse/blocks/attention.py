"""Make one layer's attention sparse: choose the channels of its projections and compute with them.

Only the frozen projections are sliced. A channel of query, key or value that is left out gets nothing
from its row of the weight, and one of output gives nothing to its column; biases and adapters stay dense,
so every result has its full width and whatever comes between (norms of heads, rotations, attention) is
untouched.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.attention import Attention
from sparselora.sparse.blocks.choice import ChannelChoice
from sparselora.sparse.channels.attention_estimators import SCORED, build_norms
from sparselora.sparse.channels.head_channels import AttentionChannels, HeadShape
from sparselora.sparse.channels.moments import InputMoments
from sparselora.sparse.channels.random_scores import restore_generators, saved_generators
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.channels.tokens import split_apply
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.copies import CopiedWithModel
from sparselora.sparse.ops.lora import SlicedLoRAFunction, adapter_rate
from sparselora.sparse.tensors import tensors_in


@dataclass(eq=False)
class _Slice:
    """Hold the kept rows of one projection, or for output its kept columns as rows."""

    chosen: AttentionChannels
    """The choice that they are of."""
    indices: Tensor
    weight: Tensor
    """(k, d)."""
    merged: tuple[object, ...]
    """Of the projection when it was sliced, see `LinearLayer.merged`."""


class SparseAttention(CopiedWithModel):
    """Compute the projections of one layer's attention sparsely, by the channels that it chooses.

    Args:
        attention: with its original modules.
        config: how to choose.
        qk_sparsity: share of the channels of query and key that is left out; 0 leaves both dense.
        vo_sparsity: share of those of value and output, likewise.
        state: shared by what is sparse in a model.
        moments: of the layer's inputs, where the config needs calibration.
    """

    def __init__(
        self,
        attention: Attention,
        config: SparsityConfig,
        qk_sparsity: float,
        vo_sparsity: float,
        state: SparsityState,
        moments: InputMoments | None = None,
    ) -> None:
        self.attention = attention
        self.config = config
        self.qk_sparsity, self.vo_sparsity = qk_sparsity, vo_sparsity
        self.state = state
        self.shape = HeadShape(
            attention.key_value_heads,
            attention.groups,
            attention.head_dim,
            attention.architecture.rotary,
            config.attention_scope == "per_head",
        )
        self.norms: nn.Module = build_norms(attention, config, moments)
        self.choice: ChannelChoice[AttentionChannels] = ChannelChoice(
            f"{attention.name}.attention", config, state, self.norms, self._pick
        )

    def follow(self, attention: Attention) -> None:
        """Go on with another's projections, which were put in the place of its own."""
        self.attention = attention
        self.choice.gathered.clear()

    @property
    def chosen(self) -> AttentionChannels | None:
        """Return the channels of the last sparse call; None before the first."""
        return self.choice.chosen

    @property
    def roles(self) -> list[str]:
        """Return which projections are sliced: of a fused one, `query` stands for all three."""
        inputs = ["query"] if self.attention.fused else []
        if not self.attention.fused:
            inputs += ["query", "key"] if self.qk_sparsity else []
            inputs += ["value"] if self.vo_sparsity else []
        return [*inputs, *(["output"] if self.vo_sparsity else [])]

    def kept(self) -> tuple[int, int]:
        """Return how many channels of the keys, and of the values, stay at the present share."""
        share = self.state.share
        return (
            self.shape.kept(share * self.qk_sparsity, pairs=True),
            self.shape.kept(share * self.vo_sparsity, pairs=False),
        )

    @property
    def report(self) -> tuple[float, float]:
        """Return the shares of the channels of query and key, and of value and output, left out."""
        total = self.attention.key_value_heads * self.attention.head_dim
        return (
            1.0 - self.shape.kept(self.qk_sparsity, pairs=True) / total,
            1.0 - self.shape.kept(self.vo_sparsity, pairs=False) / total,
        )

    def held(self) -> Iterator[Tensor]:
        """Return the tensors that stay from step to step beside the model's own."""
        return tensors_in((self.norms, self.choice.chosen, self.choice.gathered))

    def state_dict(self) -> dict[str, Any]:
        """Return what the next call depends on."""
        return {**self.choice.state_dict(), **saved_generators(self.norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        device = self.attention.projections["query"].device
        self.choice.load_state_dict(state, AttentionChannels, device)
        restore_generators(self.norms, state, device)

    def project(
        self, role: str, hidden_states: Tensor, dense: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Compute one projection by its kept channels: (…, in) → (…, out).

        Args:
            role: of the projection: query, key, value or output.
            hidden_states: its input.
            dense: computes it with all channels: for output tokens, where the batch is split.
        """
        if role != "output":
            chosen = self.choice.select(hidden_states, *self.kept(), first=role == self.roles[0])
        else:
            current = self.choice.current()
            if current is None:
                return dense(hidden_states)  # its value was in evaluation mode, and dense
            chosen = current
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        y = split_apply(self.state.split, x, lambda rows: self._compute(role, rows, chosen), dense)
        return y.view(*hidden_states.shape[:-1], y.shape[-1])

    def _pick(self, norms: list[Tensor], qk_kept: int, vo_kept: int) -> AttentionChannels:
        keys = self.shape.key_value_heads * self.shape.head_dim
        sizes = [(keys * self.shape.groups,), (keys,), (keys,)]
        if [tuple(each.shape) for each in norms] != sizes:
            raise UserError(
                f"estimator={self.config.estimator}: gave norms of {[[*each.shape] for each in norms]} "
                f"for {self.attention.name}, whose query, key and value have {[*map(list, sizes)]}"
            )
        return self.shape.choose(norms, qk_kept, vo_kept)

    def _compute(self, role: str, x: Tensor, chosen: AttentionChannels) -> Tensor:
        linear = self.attention.projections[role]
        adapter, bias, dtype = linear.adapter, linear.bias, linear.dtype(x)
        kept = self._slice(role, dtype, chosen)
        y: Tensor = SlicedLoRAFunction.apply(
            x.to(dtype),
            kept.weight,
            None if bias is None else bias.to(dtype),
            kept.indices,
            None if role == "output" else linear.shape[0],
            None if adapter is None else adapter.a,
            None if adapter is None else adapter.b,
            0.0 if adapter is None else adapter.scaling,
            0.0 if adapter is None else adapter_rate(adapter.dropout),
        )
        return linear.returned(y, x)

    @torch.no_grad()
    def _slice(self, role: str, dtype: torch.dtype, chosen: AttentionChannels) -> _Slice:
        linear = self.attention.projections[role]
        there: _Slice | None = self.choice.gathered.get(role)
        same = there is not None and there.weight.dtype == dtype and there.chosen is chosen
        if there is not None and same and there.merged == linear.merged:
            return there
        indices = self._indices(role, chosen)
        rows = linear.weight.t() if role == "output" else linear.weight
        made = _Slice(chosen, indices, rows.index_select(0, indices).to(dtype), linear.merged)
        if self.choice.keeps and chosen is self.choice.chosen:
            self.choice.gathered[role] = made
        return made

    def _indices(self, role: str, chosen: AttentionChannels) -> Tensor:
        if role == "output" or not self.attention.fused:
            kept: Tensor = getattr(chosen, role)
            return kept
        parts = [getattr(chosen, each) + self.attention.rows(each).start for each in SCORED]
        return torch.cat(parts)
