"""Compute the speed-up that the counted FLOPs of a run's steps allow, and what was reached of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparselora.config.groups import Precision
from sparselora.config.schema import RunConfig
from sparselora.measuring.dimensions import attention_kept_of, model_dimensions
from sparselora.measuring.flops import gather_bytes, step_flops, svd_estimate_flops
from sparselora.measuring.sizes import AttentionKept, ModelDimensions
from sparselora.sparse.phases import Phases
from sparselora.training.loop import StepRow
from sparselora.training.stepper import head_positions, tokens_kept_dense


class Shape(NamedTuple):
    """Hold the sizes of one forward pass."""

    batch: int
    length: int
    dense_tokens: int
    """Positions that every channel is computed for in a sparse step too."""
    head_positions: int
    """Positions that the head is applied to; 0: what the model does by itself."""


def shapes_of(rows: Sequence[StepRow], passes: int) -> list[Shape]:
    """Return the sizes of a forward pass of each step; the passes of one step count as equal."""
    return [
        Shape(
            round(row.examples / passes),
            round(row.padded_tokens / row.examples),
            round(row.dense_tokens / passes),
            round(row.head_positions / passes),
        )
        for row in rows
    ]


def of_flops(
    model: nn.Module,
    run: RunConfig,
    kept: Sequence[int],
    shapes: Sequence[Shape],
) -> dict[str, Any] | None:
    """Count the FLOPs of a mean optimizer step, dense and sparse, by term, and the bound.

    Args:
        model: trained or not; patched or not.
        run: its settings.
        kept: channels computed in each layer in the sparse phase.
        shapes: of forward passes, over which the mean is taken; None without any.
    """
    if not shapes:
        return None
    dimensions = model_dimensions(model)
    attention = attention_kept_of(model, run.sparsity)
    full = [dimensions.intermediate_size] * dimensions.num_layers
    passes = run.train.gradient_accumulation_steps
    element = 2 if run.train.precision is Precision.bf16 else 4
    choices = 0.0 if run.sparsity.kind.fixed else 1.0 / run.estimator.every
    ranks = {"none": None, "mean": 0, "lowrank": run.compensation.rank}

    def mean(
        channels: Sequence[int], attention: Sequence[AttentionKept | None] | None
    ) -> dict[str, int]:
        counts = [
            step_flops(
                dimensions,
                shape.batch,
                shape.length,
                channels,
                run.lora.projections,
                run.lora.r,
                _estimate_flops(dimensions, run),
                run.estimator.tokens,
                choices,
                ranks[run.compensation.name],
                shape.dense_tokens,
                shape.head_positions or None,
                attention,
            ).to_dict()
            for shape in shapes
        ]
        return {
            term: round(passes * sum(count[term] for count in counts) / len(counts))
            for term in counts[0]
        }

    dense, sparse = mean(full, None), mean(kept, attention)
    is_sparse = list(kept) != full or attention is not None
    gathered = gather_bytes(dimensions, kept, element, attention)
    return {
        "dense": dense,
        "sparse": sparse if is_sparse else None,
        "bound": dense["total"] / sparse["total"] if is_sparse else 1.0,
        "gather_bytes": round(passes * choices * gathered),
    }


def _estimate_flops(model: ModelDimensions, run: RunConfig) -> int:
    if run.sparsity.kind.full_projection:
        return 2 * model.hidden_size * model.intermediate_size
    if run.svd_rank is None:
        return 0
    return svd_estimate_flops(model.hidden_size, model.intermediate_size, run.svd_rank)


def add_bound(
    timing: dict[str, Any],
    model: nn.Module,
    run: RunConfig,
    kept: Sequence[int],
    batches: Sequence[Mapping[str, Tensor]],
) -> dict[str, Any]:
    """Put `bound` and `efficiency` on the timed batches into `timing`; return their FLOPs."""
    shapes = []
    for batch in batches:
        rows, length = batch["input_ids"].shape
        dense_tokens = tokens_kept_dense(batch, run.sparsity)
        shapes.append(Shape(rows, length, dense_tokens, head_positions(batch)))
    flops = of_flops(model, run, kept, shapes)
    assert flops is not None
    own = timing["own_speedup"]
    timing["bound"] = flops["bound"]
    timing["efficiency"] = None if own is None else own / flops["bound"]
    return flops


def run_speedup(timing: Mapping[str, Any], phases: Phases, calibration_seconds: float) -> float:
    """Return stock PEFT LoRA's time for a whole run over this one's.

    Every step counts at its phase's own time; one on the way up as between dense and sparse, by its
    share. Calibration counts, waits for the device's lock do not. The steps' times are drift-corrected:
    stock's over the speed-ups of one interleaved measurement; calibration's is as the clock showed it.
    """
    stock, sparse = timing["stock_dense_ms"], phases.shares()
    ours = calibration_seconds * 1e3 / stock
    ours += (phases.total_steps - sparse) / timing["dense_speedup"]
    ours += sparse / timing["speedup"]
    return phases.total_steps / ours
