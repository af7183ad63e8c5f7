"""Split a batch's tokens: context is computed sparsely, output densely.

In a decoder's fine-tune loss is taken of the completion alone, and those tokens bear leaving channels
out much worse than the prompt before them (Khaki et al., SparseLoRA, ICML 2025, section 3.3). A token
counts as output where it has a label, or where it says the next token, which has one: its own state is
what the loss is of. All others, padding among them, are context.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparselora.sparse.ops.rows import permute

IGNORED = -100
"""Label of a token that no loss is taken of, as transformers has it."""


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """Hold which of a batch's B · T tokens are context, by position in the flattened batch."""

    scored: Tensor
    """(B, T), whether a token is real and context: what channels are chosen by."""
    order: Tensor
    """(B · T,): the context tokens, then the output tokens, each in their order."""
    inverse: Tensor
    """(B · T,): puts what is in that order back."""
    context: int
    """How many are context, padding among them."""
    scored_count: int
    """How many are real and context."""
    dense_count: int
    """How many are output: real by definition."""

    @classmethod
    def of(
        cls,
        labels: Tensor,
        attention_mask: Tensor | None,
        sink_tokens: int = 0,
        position_ids: Tensor | None = None,
    ) -> "TokenSplit":
        """Split one batch; waits for the device once.

        Args:
            labels: (B, T), as the model takes them: not shifted, −100 where no loss is taken.
            attention_mask: (B, T), nonzero where the token is real; None where all are.
            sink_tokens: how many of the first tokens of each sequence count as output too: much
                attention goes to them, whatever they are.
            position_ids: (B, T), where several sequences are packed in a row.
        """
        dense, real = output_tokens(labels, attention_mask, sink_tokens, position_ids)
        # Stable, so that each side keeps its order and gathers walk forward in memory.
        order = dense.reshape(-1).to(torch.uint8).argsort(stable=True)
        scored = real & ~dense
        counts = torch.stack([scored.sum(), dense.sum()]).tolist()  # one wait for both
        return cls(
            scored=scored,
            order=order,
            inverse=order.argsort(),
            context=dense.numel() - counts[1],
            scored_count=counts[0],
            dense_count=counts[1],
        )


def output_tokens(
    labels: Tensor,
    attention_mask: Tensor | None,
    sink_tokens: int = 0,
    position_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return which tokens count as output, and which are real, (B, T) each.

    Arguments are those of `TokenSplit.of`.
    """
    labelled = labels != IGNORED
    dense = labelled.clone()
    dense[:, :-1] |= labelled[:, 1:]
    real = torch.ones_like(labelled) if attention_mask is None else attention_mask != 0
    if sink_tokens:
        place = real.cumsum(1) - 1 if position_ids is None else position_ids
        dense |= real & (place < sink_tokens)
    return dense & real, real


def split_apply(
    split: TokenSplit | None,
    x: Tensor,
    sparse: Callable[[Tensor], Tensor],
    dense: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute context tokens by `sparse` and output tokens by `dense`, each in its place.

    Args:
        split: of the batch; None where all tokens are sparse.
        x: (N, d).
        sparse: computes the context tokens: (n, d) → (n, o).
        dense: computes the output tokens likewise.
    """
    if split is None:
        return sparse(x)
    x = permute(x, split.order, split.inverse)
    y = dense(x[split.context :])
    if split.context:
        context = sparse(x[: split.context])
        y = torch.cat([context, y.to(context.dtype)])
    return permute(y, split.inverse, split.order)
