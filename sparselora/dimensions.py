"""A live model's sizes, as the count of FLOPs takes them."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from sparselora.flops import ModelDimensions
from sparselora.schedule import kept_channels
from sparselora.sparse.blocks import get_architecture, get_backbone, get_model_shape


def kept_of(model: nn.Module, sparsities: Sequence[float]) -> list[int]:
    """Channels computed in each layer of `model` at these sparsities; f where it is dense."""
    f = get_model_shape(get_backbone(model).config).intermediate_size
    return [kept_channels(sparsity, f) for sparsity in sparsities]


def model_dimensions(model: nn.Module) -> ModelDimensions:
    """Sizes of a transformers classifier, wrapped by PEFT or not.

    The head is every linear map outside the layers, with whether it trains: BERT's frozen pooler and
    its classifier, DistilBERT's two maps, a decoder's one.
    """
    config: Any = get_backbone(model).config
    architecture, shape = get_architecture(config), get_model_shape(config)
    heads = config.num_attention_heads
    head_maps = tuple(
        (module.in_features, module.out_features, module.weight.requires_grad)
        for name, module in model.named_modules()
        # PEFT keeps an untrained copy of each module it trains whole; that one never runs.
        if isinstance(module, nn.Linear)
        and f".{architecture.layers}." not in f".{name}."
        and "original_module" not in name
    )
    return ModelDimensions(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or shape.hidden_size // heads,
        gated=architecture.gate is not None,
        head_maps=head_maps,
        head_on_every_token=architecture.head_on_every_token,
        fused_attention=architecture.fused_attention,
    )
