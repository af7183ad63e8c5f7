"""One layer's attention maps made sparse: chooses their channels and computes with them.

Only the frozen maps are sliced. A channel of query, key or value that is left out gets nothing from its
row of the weight, and one of output gives nothing to its column; biases and adapters stay whole, so every
result has its full width and whatever comes between (norms of heads, rotations, attention) is untouched.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselora.sparse.backbone.attention import Attention
from sparselora.sparse.channels.attention_estimators import SCORED, build_norms
from sparselora.sparse.channels.ffn_estimators import left_alone
from sparselora.sparse.channels.head_channels import Channels, HeadShape
from sparselora.sparse.channels.moments import InputMoments
from sparselora.sparse.channels.state import Call, SparsityState
from sparselora.sparse.channels.tokens import split_apply
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.copies import CopiedWithModel
from sparselora.sparse.ops.lora import SlicedLoRAFunction, adapter_rate
from sparselora.sparse.tensors import tensors_in


@dataclass(eq=False)
class _Slice:
    """The kept rows of one map, or for output its kept columns as rows."""

    chosen: Channels
    """The choice that they are of."""
    indices: Tensor
    weight: Tensor
    """(k, d)."""
    merged: tuple[object, ...]
    """Of the map when it was sliced, see `LinearMap.merged`."""


class SparseAttention(CopiedWithModel):
    """One layer's attention maps made sparse.

    Args:
        attention: with its original modules.
        config: how to choose.
        qk_sparsity: share of the channels of query and key that is left out; 0 leaves both whole.
        vo_sparsity: the same of value and output.
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
        self._chosen: Channels | None = None
        self._slices: dict[str, _Slice] = {}
        self._key = f"{attention.name}.attention"
        self._expires = 0

    def follow(self, attention: Attention) -> None:
        """Go on with another's maps, which were put in the place of its own."""
        self.attention, self._slices = attention, {}

    @property
    def chosen(self) -> Channels | None:
        """The channels of the last sparse call; None before the first."""
        return self._chosen

    @property
    def roles(self) -> list[str]:
        """The maps that are sliced: of a fused one, `query` stands for all three."""
        inputs = ["query"] if self.attention.fused else []
        if not self.attention.fused:
            inputs += ["query", "key"] if self.qk_sparsity else []
            inputs += ["value"] if self.vo_sparsity else []
        return [*inputs, *(["output"] if self.vo_sparsity else [])]

    def kept(self) -> tuple[int, int]:
        """How many channels of the keys, and of the values, stay at the present share."""
        share = self.state.share
        return (
            self.shape.kept(share * self.qk_sparsity, pairs=True),
            self.shape.kept(share * self.vo_sparsity, pairs=False),
        )

    @property
    def report(self) -> tuple[float, float]:
        """Shares of the channels of query and key, and of value and output, left out when sparse."""
        total = self.attention.key_value_heads * self.attention.head_dim
        return (
            1.0 - self.shape.kept(self.qk_sparsity, pairs=True) / total,
            1.0 - self.shape.kept(self.vo_sparsity, pairs=False) / total,
        )

    def held(self) -> Iterator[Tensor]:
        """What stays from step to step beside the model's own tensors."""
        return tensors_in((self.norms, self._chosen, self._slices))

    def state_dict(self) -> dict[str, Any]:
        """What the next call depends on."""
        drawn = getattr(self.norms, "drawn", None)
        generators = {} if drawn is None else {name: each.generator for name, each in drawn.items()}
        return {
            "chosen": None if self._chosen is None else [rows.cpu() for rows in self._chosen],
            "expires": self._expires,
            "generators": {
                name: None if generator is None else generator.get_state()
                for name, generator in generators.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        device = self.attention.maps["query"].device
        chosen = state["chosen"]
        self._chosen = None if chosen is None else Channels(*(rows.to(device) for rows in chosen))
        self._expires, self._slices = state["expires"], {}
        for name, saved in state["generators"].items():
            if saved is not None:
                generator = torch.Generator(device=device)
                generator.set_state(saved)
                self.norms.drawn[name].generator = generator  # type: ignore[union-attr, index]

    def project(
        self, role: str, hidden_states: Tensor, whole: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """(…, in) → (…, out), by the kept channels; of output tokens, where they are split, `whole`."""
        if role != "output":
            chosen = self._select(hidden_states, first=role == self.roles[0])
        else:
            current = self._current()
            if current is None:
                return whole(hidden_states)  # its value was in evaluation mode, and whole
            chosen = current
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        y = split_apply(self.state.split, x, lambda rows: self._compute(role, rows, chosen), whole)
        return y.view(*hidden_states.shape[:-1], y.shape[-1])

    def _current(self) -> Channels | None:
        """What was chosen for the call in hand; None where nothing was."""
        call = self.state.in_hand()
        if call.choices is not None:
            found: Channels | None = call.choices.get(self._key)
            return found
        holds = self.config.kind.fixed or call.number is None or call.number < self._expires
        return self._chosen if holds else None

    @torch.no_grad()
    def _select(self, hidden_states: Tensor, first: bool) -> Channels:
        """The channels, chosen once in a call of the model, by the first map that is reached.

        Args:
            first: whether that is known of this map; a compiled call has nothing to tell by.
        """
        call, device = self.state.in_hand(), hidden_states.device
        if call.number is None and call.choices is None and self.config.estimator_every > 1:
            raise RuntimeError("estimator_every over 1 is not possible under torch.compile")
        found = self._current()
        if call.choices is not None and found is not None and found.query.device == device:
            return found
        there = self._chosen
        holds = self.config.kind.fixed or (
            not first if call.number is None else call.number < self._expires
        )
        same = (
            there is not None
            and there.query.device == device
            and self.kept() == (len(there.key), len(there.value))
        )
        if there is None or not (same and holds):
            there = self._choose(hidden_states, call)
        if call.choices is not None:
            call.choices[self._key] = there
        return there

    def _choose(self, hidden_states: Tensor, call: Call) -> Channels:
        device = hidden_states.device
        if any(buffer.device != device for buffer in self.norms.buffers()):
            self.norms.to(device)
        tokens = self.config.estimator_tokens if self.config.kind.uses_tokens else 1
        sample, weights = self.state.sample(hidden_states.detach(), tokens)
        with nullcontext() if call.trains else left_alone(self.norms):
            norms = self.norms(sample, weights)
        if self.config.kind.uses_tokens and dist.is_available() and dist.is_initialized():
            for norm in norms:  # over the tokens of all ranks
                norm.square_()
                dist.all_reduce(norm)
                norm.sqrt_()
        chosen = self.shape.choose(norms, *self.kept())
        if call.trains:
            # What a batch without context chose serves no other batch.
            alone = not (dist.is_available() and dist.is_initialized())
            nothing = alone and call.split is not None and not call.split.context
            every = 1 if nothing else self.config.estimator_every
            self._expires = 0 if call.number is None else call.number + every
            self._chosen, self._slices = chosen, {}
        return chosen

    def _compute(self, role: str, x: Tensor, chosen: Channels) -> Tensor:
        linear = self.attention.maps[role]
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
    def _slice(self, role: str, dtype: torch.dtype, chosen: Channels) -> _Slice:
        linear = self.attention.maps[role]
        kept = self._slices.get(role)
        same = kept is not None and kept.weight.dtype == dtype and kept.chosen is chosen
        if kept is not None and same and kept.merged == linear.merged:
            return kept
        indices = self._indices(role, chosen)
        rows = linear.weight.t() if role == "output" else linear.weight
        made = _Slice(chosen, indices, rows.index_select(0, indices).to(dtype), linear.merged)
        keeps = self.config.kind.fixed or self.config.estimator_every > 1
        if keeps and chosen is self._chosen:
            self._slices[role] = made
        return made

    def _indices(self, role: str, chosen: Channels) -> Tensor:
        if role == "output" or not self.attention.fused:
            kept: Tensor = getattr(chosen, role)
            return kept
        parts = [getattr(chosen, each) + self.attention.rows(each).start for each in SCORED]
        return torch.cat(parts)
