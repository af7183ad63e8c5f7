"""Hold the sizes of a model that the count of FLOPs takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RelativeAttention:
    """Describe DeBERTa's attention by distance, beside that by content.

    Source: He et al., 2021, section 3.1.
    """

    positions: int
    """S: embeddings of distances, which go through projections in each layer."""
    shared_maps: bool
    """Whether those are the query and key projections; else the layer has two more, without adapters."""
    content_to_position: bool
    """Whether queries meet distances; and keys, the next."""
    position_to_content: bool


@dataclass(frozen=True)
class ShortLastLayer:
    """Describe a last layer that is computed for the first token alone, but for keys and values."""

    query: bool
    """Whether its query projection is too."""
    attention: bool
    """Whether what attends is one query to a sequence."""


@dataclass(frozen=True)
class ModelDimensions:
    """Hold what the count of FLOPs needs to know of a model."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    gated: bool
    """Whether the FFN has a gate: three linear layers in place of two."""
    head_maps: tuple[tuple[int, int, bool], ...]
    """Linear layers of the classification head: (in, out, whether it trains)."""
    head_on_every_token: bool
    """Whether the head is applied before one token is picked, as decoders do."""
    fused_attention: bool = False
    """Whether query, key and value are one projection, with one adapter."""
    relative: RelativeAttention | None = None
    short_last_layer: ShortLastLayer | None = None


@dataclass(frozen=True)
class AttentionKept:
    """Say what is computed of one layer's attention projections for a token that is not dense."""

    query: int
    """Rows; likewise the next two."""
    key: int
    value: int
    output: int
    """Columns."""
    estimate_flops: int = 0
    """Of the estimates of query, key and value for one token that is scored."""
