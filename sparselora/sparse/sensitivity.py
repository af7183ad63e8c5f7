"""Measure what each layer's sparsity costs in the model's output: an error curve for each layer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.sparse.allocation import LEVELS, allocate
from sparselora.sparse.backbone.lookup import get_backbone
from sparselora.sparse.channels.moments import Calibration
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.patch import sparsify
from sparselora.sparse.schedule import kept_channels, named_layers


@torch.no_grad()
def error_curves(
    model: nn.Module,
    config: SparsityConfig,
    calibration: Calibration,
    batches: Sequence[Mapping[str, Tensor]],
    levels: Sequence[float] = LEVELS,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[list[float]]:
    """Measure the relative squared error of the backbone's output with one layer sparse at a time.

    Args:
        model: not sparse yet; left as it was.
        config: estimator and compensation; its sparsities are not looked at.
        calibration: moments, where the config needs them.
        batches: that the output is compared on; padding is left out.
        levels: the sparsities at which each layer is measured.
        context: makes the context that a forward pass runs in, such as autocast.

    Returns:
        A row for each layer: ‖sparse − dense‖² / ‖dense‖² at each level, made to rise with it.
    """
    probe = replace(
        config.of_ffn_alone(),
        rule="uniform",
        layer_sparsity={},
        ffn_sparsity=0.5,
        estimator_every=1,
    )
    handle = sparsify(model, probe, calibration)
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    backbone = get_backbone(model)
    model.eval()
    sparse = handle.sparse_blocks
    names = list(sparse)
    errors = torch.zeros(len(names), len(levels), dtype=torch.float64)
    total = 0.0
    try:
        for batch in batches:
            inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
            ids = next(iter(inputs.values()))
            real = inputs.get("attention_mask", torch.ones(ids.shape[:2], device=device)) != 0
            with context():
                dense = backbone(**inputs)[0][real]
            total += float(dense.double().square().sum())
            for row, name in enumerate(names):
                ffn = sparse[name]
                for column, level in enumerate(levels):
                    ffn.kept = kept_channels(level, ffn.block.intermediate_size)
                    if ffn.kept == ffn.block.intermediate_size:
                        continue
                    ffn.set_training(True)  # this block alone, in a model in evaluation mode
                    with context(), handle.without_gradients():
                        output = backbone(**inputs)[0][real]
                    ffn.set_training(False)
                    errors[row, column] += (output - dense).double().square().sum().cpu()
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return (errors / total).cummax(dim=1).values.tolist()


def calibrated_sparsities(config: SparsityConfig, curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the sparsity of each layer: as `layer_sparsity` names it, or else by the curves."""
    fixed = named_layers(config.rule, len(curves), config.layer_sparsity)
    return allocate(curves, config.ffn_sparsity, fixed)


def with_layers(config: SparsityConfig, sparsities: Sequence[float]) -> SparsityConfig:
    """Return the same settings with every layer named."""
    named = {f"layer.{index}": value for index, value in enumerate(sparsities)}
    return replace(config, rule="explicit", layer_sparsity=named)


def calibrated_config(
    model: nn.Module,
    config: SparsityConfig,
    calibration: Calibration,
    batches: Sequence[Mapping[str, Tensor]],
) -> SparsityConfig:
    """Return what `sparsify` takes for a config whose rule is `calibrated`: every layer named."""
    curves = error_curves(model, config, calibration, batches)
    return with_layers(config, calibrated_sparsities(config, curves))
