"""Read the sizes of a live model, as the count of FLOPs takes them."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from sparselora.measuring.sizes import (
    AttentionKept,
    ModelDimensions,
    RelativeAttention,
    ShortLastLayer,
)
from sparselora.sparse.acceleration.attention import NAME
from sparselora.sparse.acceleration.last_layer import reads_first_token
from sparselora.sparse.backbone.architecture import Architecture
from sparselora.sparse.backbone.lookup import get_architecture, get_backbone, get_model_shape
from sparselora.sparse.channels.head_channels import HeadShape
from sparselora.sparse.compat import ATTENTION
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.schedule import kept_channels


def kept_of(model: nn.Module, sparsities: Sequence[float]) -> list[int]:
    """Return the channels computed in each layer at these sparsities; f where it is dense."""
    f = get_model_shape(get_backbone(model).config).intermediate_size
    return [kept_channels(sparsity, f) for sparsity in sparsities]


def attention_kept_of(
    model: nn.Module, config: SparsityConfig
) -> list[AttentionKept | None] | None:
    """Return what is computed of each layer's attention projections; None where all are dense."""
    if not config.sparsifies_attention:
        return None
    sizes = model_dimensions(model)
    shape = HeadShape(
        sizes.num_key_value_heads,
        sizes.num_attention_heads // sizes.num_key_value_heads,
        sizes.head_dim,
        get_architecture(get_backbone(model).config).rotary,
        config.attention_scope == "per_head",
    )
    keys = shape.key_value_heads * shape.head_dim
    rows = (keys * shape.groups, keys, keys)
    d = sizes.hidden_size
    estimate = 0
    if config.kind.full_projection:
        estimate = sum(2 * d * each for each in rows)
    elif config.kind.has_rank and config.svd_rank is not None:
        ranks = [min(config.svd_rank, d, each) for each in rows]
        estimate = sum(2 * r * (d + each) for r, each in zip(ranks, rows, strict=True))
    found: list[AttentionKept | None] = []
    for qk, vo in config.attention_sparsities(sizes.num_layers):
        key, value = shape.kept(qk, pairs=True), shape.kept(vo, pairs=False)
        groups = shape.groups
        kept = AttentionKept(key * groups, key, value, value * groups, estimate)
        found.append(kept if qk or vo else None)
    return found


def model_dimensions(model: nn.Module) -> ModelDimensions:
    """Return the sizes of a transformers model, wrapped by PEFT or not.

    The head is every linear layer outside the stack, with whether it trains: BERT's frozen pooler and
    its classifier, DistilBERT's two, a decoder's one.
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
        relative=_relative_attention(config),
        short_last_layer=_short_last_layer(model, architecture, config),
    )


def _short_last_layer(
    model: nn.Module, architecture: Architecture, config: Any
) -> ShortLastLayer | None:
    if not reads_first_token(model):
        return None
    return ShortLastLayer(
        query=architecture.query_of_some_tokens,
        attention=getattr(config, ATTENTION) in ("sdpa", NAME),
    )


def _relative_attention(config: Any) -> RelativeAttention | None:
    if not getattr(config, "relative_attention", False):
        return None
    most, kinds = config.max_relative_positions, config.pos_att_type or ()
    span = most if most >= 1 else config.max_position_embeddings
    buckets = getattr(config, "position_buckets", -1)
    return RelativeAttention(
        positions=2 * (buckets if buckets > 0 else span),
        shared_maps=bool(getattr(config, "share_att_key", False)),
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
    )
