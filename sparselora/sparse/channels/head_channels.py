"""Choose the channels of attention's projections that are kept, by the norms of what they give.

SparseLoRA (Khaki et al., ICML 2025, section 3.2): a channel of query and key counts by ‖q‖ · ‖k‖, its
part of the attention's scores, and one of value by ‖v‖; norms over the tokens. Under grouped-query
attention a channel of a key serves R heads of queries, whose norms are averaged, and is kept for all.
Where position is a rotation of pairs of channels, i with i + e/2, a pair is kept whole or not at all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class AttentionChannels(NamedTuple):
    """Hold the rows of query, key and value that are kept, and the columns of output: sorted."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor

    @property
    def kept(self) -> tuple[int, ...]:
        """Return how many channels of the keys, and of the values, are kept."""
        return len(self.key), len(self.value)


@dataclass(frozen=True)
class HeadShape:
    """Describe the heads of an attention, which a choice of channels has to respect."""

    key_value_heads: int
    groups: int
    head_dim: int
    rotary: bool
    """Whether channels i and i + e/2 of a head are one unit for query and key."""
    per_head: bool
    """Whether every head of keys keeps as many; else the best of all heads are kept."""

    def choose(self, norms: list[Tensor], qk_kept: int, vo_kept: int) -> AttentionChannels:
        """Choose the channels that are kept by their norms.

        Args:
            norms: of query (G·R·e,), key (G·e,) and value (G·e,).
            qk_kept: how many of the G·e channels of the keys, as `kept` gives it.
            vo_kept: how many of those of the values.
        """
        heads, groups, e = self.key_value_heads, self.groups, self.head_dim
        query, key, value = norms
        queries = query.view(heads, groups, e).mean(1)
        keys = key.view(heads, e)
        if self.rotary:
            queries, keys = (
                torch.hypot(*each.view(heads, 2, e // 2).unbind(1)) for each in (queries, keys)
            )
        key_rows = self._top(queries * keys, qk_kept, 2 if self.rotary else 1)
        value_rows = self._top(value.view(heads, e), vo_kept, 1)
        return AttentionChannels(
            self._of_queries(key_rows), key_rows, value_rows, self._of_queries(value_rows)
        )

    def kept(self, sparsity: float, pairs: bool) -> int:
        """Return how many of the G·e channels stay at a sparsity: whole units, as many in each head."""
        unit = 2 if pairs and self.rotary else 1
        parts = 1 if not self.per_head else self.key_value_heads
        units = self.key_value_heads * self.head_dim // unit // parts
        return max(1, int((1.0 - sparsity) * units + 0.5)) * unit * parts

    def _top(self, scores: Tensor, kept: int, unit: int) -> Tensor:
        # scores (G, e / unit) → (kept,), rows of the keys or values.
        heads, units = scores.shape
        if self.per_head:
            best = scores.topk(kept // unit // heads, dim=1, sorted=False).indices
            flat = best + units * torch.arange(heads, device=scores.device).unsqueeze(1)
            flat = flat.reshape(-1)
        else:
            flat = scores.reshape(-1).topk(kept // unit, sorted=False).indices
        head, place = flat // units, flat % units
        rows = torch.cat([head * self.head_dim + place + half * units for half in range(unit)])
        return rows.sort().values

    def _of_queries(self, rows: Tensor) -> Tensor:
        # The same channels in the R heads of queries to each head of keys.
        head, place = rows // self.head_dim, rows % self.head_dim
        first = head * self.groups * self.head_dim + place
        repeats = self.head_dim * torch.arange(self.groups, device=rows.device)
        return (first.unsqueeze(1) + repeats).reshape(-1).sort().values
