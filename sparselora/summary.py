"""What a run's record says of its data, steps, sparsity and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from sparselora.batches import TokenizedSplit
from sparselora.data import LabelledData
from sparselora.flops import ffn_flops, svd_estimator_flops
from sparselora.model import trained_parameters
from sparselora.schema import RunConfig
from sparselora.sparse.blocks import get_backbone, get_model_shape
from sparselora.sparse.patch import SparsityHandle
from sparselora.timing import quantiles
from sparselora.train import StepPlan, StepRow


def of_data(data: LabelledData, tokenized: Mapping[str, TokenizedSplit]) -> dict[str, Any]:
    """Sizes of the splits, the map of labels, and the accuracy of always saying the commonest."""
    validation, lengths = tokenized["validation"].labels, tokenized["train"].lengths
    return {
        "rows": {name: len(split) for name, split in data.splits.items()},
        "groups": {name: len(set(split.groups)) for name, split in data.splits.items()},
        "dropped_rows": data.dropped_rows,
        "label_map": dict(enumerate(data.label_names)),
        "majority_share": max(map(validation.count, set(validation))) / len(validation),
        "mean_tokens": sum(lengths) / len(lengths),
    }


def of_steps(rows: Sequence[StepRow], plan: StepPlan) -> dict[str, Any]:
    """Counts, tokens, and times in ms by phase: the two are never mixed."""
    done = {phase: [row for row in rows if row.phase == phase] for phase in ("dense", "sparse")}
    return {
        "steps": {
            "planned": plan.total_steps,
            "planned_dense": plan.dense_steps,
            "dense": len(done["dense"]),
            "sparse": len(done["sparse"]),
        },
        "tokens": {
            "real": sum(row.tokens for row in rows),
            "padded": sum(row.padded_tokens for row in rows),
        },
        "step_time_ms": {
            phase: quantiles([row.milliseconds for row in of_phase])
            for phase, of_phase in done.items()
        },
    }


def of_parameters(model: nn.Module) -> dict[str, int]:
    """How many train, and how many there are."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"trained": trained_parameters(model), "total": total}


def of_sparsity(handle: SparsityHandle | None) -> dict[str, Any]:
    """By layer, and unweighted means over layers; plain LoRA, which has no handle, has none."""
    if handle is None:
        return {"mean": 0.0, "realised_mean": 0.0, "layers": []}
    layers = handle.report()
    known = [layer.realised_sparsity for layer in layers if layer.realised_sparsity is not None]
    return {
        "mean": sum(layer.sparsity for layer in layers) / len(layers),
        "realised_mean": sum(known) / len(layers) if len(known) == len(layers) else None,
        "layers": [asdict(layer) for layer in layers],
    }


def of_flops(
    handle: SparsityHandle | None, model: nn.Module, run: RunConfig, rows: Sequence[StepRow]
) -> dict[str, int | None] | None:
    """FLOPs of an optimizer step of the run's mean size: FFN blocks dense and sparse, estimators."""
    if not rows:
        return None
    shape = get_model_shape(get_backbone(model).config)
    tokens = round(sum(row.padded_tokens for row in rows) / len(rows))
    dense = shape.num_layers * ffn_flops(tokens, shape.hidden_size, shape.intermediate_size)
    if handle is None:
        return {"ffn_dense": dense, "ffn_sparse": None, "estimators": None}
    layers = handle.report()
    estimators = 0
    if run.svd_rank is not None:
        passes = run.train.gradient_accumulation_steps
        scored = min(run.estimator.tokens or tokens, tokens // passes)
        one = svd_estimator_flops(scored, shape.hidden_size, shape.intermediate_size, run.svd_rank)
        estimators = passes * one * sum(layer.kept < layer.intermediate_size for layer in layers)
    return {
        "ffn_dense": dense,
        "ffn_sparse": sum(ffn_flops(tokens, shape.hidden_size, layer.kept) for layer in layers),
        "estimators": estimators,
    }
