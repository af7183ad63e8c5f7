"""Count the floating-point operations of one optimizer step, by term.

Counted are matrix products, 2 · rows · inner · columns each, which is what `torch.utils.flop_counter`
counts as well; elementwise work is not. Causal attention counts in full, as torch's own kernel computes
it; `sparse.ops.causal_attention` leaves up to half of that out, dense or sparse, which is not part of the
bound. N = batch · length positions (padding included: it is computed),
d = hidden_size, f = intermediate_size, r = lora.r.

A linear layer W, (out, in), that is frozen costs 2·N·in·out forward and, if its input needs a gradient,
the same again backward (dx = dy W). It has no weight gradient: 2 + 2 per parameter and token, not 6.

Below the first adapter nothing needs a gradient. The input of layer 0 is a frozen embedding, so its
query, key and value have no input gradient at all, and attention passes back only to those of the
three that carry an adapter.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from sparselora.measuring.sizes import AttentionKept, ModelDimensions, RelativeAttention


@dataclass(frozen=True)
class StepFlops:
    """Hold the FLOPs of one optimizer step; every field is forward and backward together."""

    query_key_value: int
    output_projection: int
    attention: int
    ffn_lin1: int
    """The gate included."""
    ffn_lin2: int
    estimator: int
    lora: int
    head: int
    compensation: int = 0
    embeddings: int = 0
    """A look-up, without a product."""
    relative_attention: int = 0
    """Its projections of distances, without their adapters, and its two products with them."""

    @property
    def total(self) -> int:
        """Return the sum of all terms."""
        return sum(getattr(self, field.name) for field in fields(self))

    def to_dict(self) -> dict[str, int]:
        """Return the terms and their total."""
        return {**asdict(self), "total": self.total}


def step_flops(
    model: ModelDimensions,
    batch_size: int,
    length: int,
    kept: Sequence[int],
    projections: Collection[str],
    lora_rank: int,
    estimate_flops: int = 0,
    estimator_tokens: int | None = None,
    choices: float = 1.0,
    compensation_rank: int | None = None,
    dense_tokens: int = 0,
    head_positions: int | None = None,
    attention: Sequence[AttentionKept | None] | None = None,
) -> StepFlops:
    """Count one forward and backward pass over (batch_size, length) positions.

    Args:
        model: its sizes.
        batch_size: sequences.
        length: positions of each, padding included.
        kept: channels computed in each layer; f where it is dense.
        projections: which of query, key, value, output carry an adapter.
        lora_rank: r.
        estimate_flops: of the estimate of one linear layer for one token; 0 where no product is needed.
        estimator_tokens: positions scored in a layer; None for all.
        choices: of channels in a step: 1, less where a choice is kept for several, 0 where it is
            fixed.
        compensation_rank: r of its linear map, 0 for `mean`, None without compensation.
        dense_tokens: positions that every channel is computed for, whatever is kept for the others.
        attention: what is kept of each layer's projections; None for a layer, or all, that are whole.
        head_positions: that the head is applied to; None for what the model does by itself.
    """
    tokens = batch_size * length
    d, f = model.hidden_size, model.intermediate_size
    query_size = model.num_attention_heads * model.head_dim
    key_size = model.num_key_value_heads * model.head_dim
    sizes = {
        "query": (d, query_size),
        "key": (d, key_size),
        "value": (d, key_size),
        "output": (query_size, d),
    }
    totals = dict.fromkeys(
        (
            *("query_key_value", "output_projection", "attention", "relative_attention"),
            *("ffn_lin1", "ffn_lin2"),
        ),
        0,
    )
    lora = estimator = compensation = 0
    # Gradients flow into a layer once an adapter lies below it.
    needs_gradient = False
    maps = 2 if model.gated else 1
    layers = zip(kept, attention or [None] * len(kept), strict=True)
    for index, (channels, maps_kept) in enumerate(layers, start=1):
        short = model.short_last_layer if index == len(kept) else None
        # Positions of what comes after attention, of the queries that attend, and of their map.
        after = batch_size if short else tokens
        attending = batch_size if short and short.attention else tokens
        sliced = maps_kept is not None and maps_kept.query < query_size
        asked = batch_size if short and short.query and not sliced else tokens
        adapted = {name: name in projections for name in sizes}
        for name in ("query", "key", "value"):
            size_in, size_out = sizes[name]
            rows = size_out if maps_kept is None else getattr(maps_kept, name)
            positions = asked if name == "query" else tokens
            sparse_tokens = positions - dense_tokens
            product = 2 * size_in * (sparse_tokens * rows + dense_tokens * size_out)
            totals["query_key_value"] += product * (2 if needs_gradient else 1)
        # Scores Q Kᵀ and their product with V: 2·B·h·T²·head_dim each where all attend. Backward, each
        # of dQ, dK and dV is a product of that size, and so is the gradient of the attention weights,
        # which dQ and dK need.
        one = 2 * attending * length * model.num_attention_heads * model.head_dim
        flows = {name: needs_gradient or adapted[name] for name in ("query", "key", "value")}
        backward = sum(flows.values()) + (flows["query"] or flows["key"])
        totals["attention"] += one * (2 + backward)
        if model.relative is not None:
            shared = adapted if model.relative.shared_maps else {}
            totals["relative_attention"] += _relative(
                model, model.relative, tokens, maps_kept, flows, shared
            )
            for name in ("query", "key"):
                if shared.get(name):  # a frozen embedding comes in
                    lora += _lora(model.relative.positions, *sizes[name], lora_rank, False)
        output_needs = any(flows.values())
        size_in, size_out = sizes["output"]
        columns = size_in if maps_kept is None else maps_kept.output
        sparse_tokens = after - dense_tokens
        product = 2 * size_out * (sparse_tokens * columns + dense_tokens * size_in)
        totals["output_projection"] += product * (2 if output_needs else 1)
        if model.fused_attention and adapted["query"]:
            width = query_size + 2 * key_size
            lora += _lora(tokens, d, width, lora_rank, needs_gradient)
        for name, carries in adapted.items():
            if carries and (name == "output" or not model.fused_attention):
                input_needs = output_needs if name == "output" else needs_gradient
                rows = {"query": asked, "output": after}.get(name, tokens)
                lora += _lora(rows, *sizes[name], lora_rank, input_needs)
        needs_gradient = needs_gradient or output_needs or adapted["output"]
        # The FFN: every map forward, and backward to its input, which is what is below it.
        directions = 2 if needs_gradient else 1
        computed = sparse_tokens * channels + dense_tokens * f
        totals["ffn_lin1"] += directions * maps * 2 * d * computed
        totals["ffn_lin2"] += directions * 2 * computed * d
        if maps_kept is not None:
            scored = _scored(tokens, estimator_tokens)
            estimator += round(choices * scored * maps_kept.estimate_flops)
        if channels == f:
            continue
        scored = _scored(after, estimator_tokens)
        estimator += round(choices * maps * scored * estimate_flops)
        if compensation_rank is not None:
            # (x P) M forward, (dy Mᵀ) Pᵀ backward; and for each choice its shift and its M, from the
            # kept rows of lin2.
            compensation += directions * 4 * sparse_tokens * d * compensation_rank
            compensation += round(choices * 2 * channels * d * (1 + compensation_rank))
    if head_positions is None:
        head_positions = tokens if model.head_on_every_token else batch_size
    head = _head(model, head_positions, needs_gradient)
    return StepFlops(**totals, lora=lora, estimator=estimator, head=head, compensation=compensation)


def _scored(positions: int, sample: int | None) -> int:
    # All are scored at once, those that stay dense with a weight of 0; a sample has none of these.
    return positions if sample is None else min(sample, positions)


def svd_estimate_flops(hidden_size: int, intermediate_size: int, rank: int) -> int:
    """Count the low-rank estimate of one linear layer for one token.

    x Vᵀ costs 2·d·r, its product with U S another 2·r·f.
    """
    return 2 * rank * (hidden_size + intermediate_size)


def _relative(
    model: ModelDimensions,
    relative: RelativeAttention,
    tokens: int,
    kept: AttentionKept | None,
    flows: Mapping[str, bool],
    adapted: Mapping[str, bool],
) -> int:
    # Distances are frozen embeddings: their maps have no input gradient. Content against distances,
    # 2·N·h·e·S each, passes back to content, and to the distances where their map has an adapter.
    size = model.num_attention_heads * model.head_dim
    uses = {"key": relative.content_to_position, "query": relative.position_to_content}
    product = 2 * tokens * size * relative.positions
    total = 0
    for name, content in (("key", "query"), ("query", "key")):  # of distances, and what meets them
        if uses[name] or relative.shared_maps:
            sliced = relative.shared_maps and kept is not None
            rows = getattr(kept, name) if sliced else size
            total += 2 * relative.positions * model.hidden_size * rows
        if uses[name]:
            total += product * (1 + flows[content] + bool(adapted.get(name)))
    return total


def _lora(tokens: int, size_in: int, size_out: int, rank: int, input_needs: bool) -> int:
    # y += B (A x): forward both; backward dB and d(A x), dA, and dx where x needs it.
    inner, outer = 2 * tokens * size_in * rank, 2 * tokens * rank * size_out
    return inner + outer + 2 * outer + inner + (inner if input_needs else 0)


def _head(model: ModelDimensions, rows: int, input_needs: bool) -> int:
    total = 0
    needs = input_needs
    for size_in, size_out, trains in model.head_maps:
        product = 2 * rows * size_in * size_out
        total += product * (1 + needs + trains)  # forward, dx, dW
        needs = needs or trains
    return total


def gather_bytes(
    model: ModelDimensions,
    kept: Sequence[int],
    bytes_per_element: int,
    attention: Sequence[AttentionKept | None] | None = None,
) -> int:
    """Count the bytes that the gathers of one step read and write: every kept row once."""
    maps = 3 if model.gated else 2
    rows = maps * sum(channels for channels in kept if channels < model.intermediate_size)
    for each in attention or ():
        if each is not None:
            rows += each.query + each.key + each.value + each.output
    return 2 * rows * model.hidden_size * bytes_per_element
