"""Finds the FFN blocks of a model: a table by architecture, one row each.

Every block is read as lin1 → activation → lin2, or, where it has a gate, as
lin2(activation(gate(x)) · lin1(x)). With d = hidden_size and f = intermediate_size, lin1 and the gate
are (f, d) and lin2 is (d, f).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from sparselora.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """A row of the table. Paths of modules are dotted and relative to what is named."""

    layers: str
    """The list of layers, below the backbone (`model.base_model`)."""
    lin1: str
    """First linear map of the FFN, below a layer; likewise the next two."""
    activation: str
    lin2: str
    gate: str | None
    """The gate's linear map, where there is one."""
    whole: str | None
    """A module that computes lin1 to lin2 and nothing else, where there is one: it is swapped whole."""
    attention: tuple[str, ...]
    """The attention projections, below a layer: query, key, value, output."""
    head: tuple[str, ...]
    """Modules of the classification head, below the model."""
    intermediate_size: str
    """Name of the config's attribute that holds f."""
    head_on_every_token: bool = False
    """Whether the head is applied before one token is picked, as decoders do."""


_BERT = Architecture(
    layers="encoder.layer",
    lin1="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    lin2="output.dense",
    gate=None,
    whole=None,
    attention=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    head=("classifier",),
    intermediate_size="intermediate_size",
)

_LLAMA = Architecture(
    layers="layers",
    lin1="mlp.up_proj",
    activation="mlp.act_fn",
    lin2="mlp.down_proj",
    gate="mlp.gate_proj",
    whole="mlp",
    attention=(
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
    ),
    head=("score",),
    intermediate_size="intermediate_size",
    head_on_every_token=True,
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "bert": _BERT,
        "distilbert": Architecture(
            layers="transformer.layer",
            lin1="ffn.lin1",
            activation="ffn.activation",
            lin2="ffn.lin2",
            gate=None,
            whole=None,  # its FFN module applies dropout as well
            attention=(
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
            ),
            head=("pre_classifier", "classifier"),
            intermediate_size="hidden_dim",
        ),
        "llama": _LLAMA,
    }
)


@dataclass(frozen=True)
class ModelShape:
    """The sizes that settings are checked against; read from a config, without weights."""

    num_layers: int
    hidden_size: int
    intermediate_size: int


@dataclass(eq=False)
class FFNBlock:
    """One FFN block in a live model."""

    name: str
    """Canonical: `layer.N`."""
    layer: nn.Module
    architecture: Architecture
    lin1: nn.Linear
    activation: nn.Module
    lin2: nn.Linear
    gate: nn.Linear | None

    @property
    def hidden_size(self) -> int:
        return self.lin1.in_features

    @property
    def intermediate_size(self) -> int:
        return self.lin1.out_features


def get_architecture(config: Any) -> Architecture:
    """The row for a transformers config.

    Raises:
        UserError: there is none; the message lists what is supported and how to add a row.
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"model: no FFN blocks known for the architecture {model_type!r}; supported are "
            f"{', '.join(sorted(ARCHITECTURES))}; a new one is a row in {__name__}.ARCHITECTURES"
        )
    return ARCHITECTURES[model_type]


def get_model_shape(config: Any) -> ModelShape:
    """Sizes of the model that a transformers config describes."""
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=getattr(config, get_architecture(config).intermediate_size),
    )


def get_backbone(model: nn.Module) -> nn.Module:
    """The encoder below adapters and head: the module that is called with `attention_mask`."""
    unwrap: Any = getattr(model, "get_base_model", None)
    inner: Any = model if unwrap is None else unwrap()
    backbone = getattr(inner, "base_model", None)
    if not isinstance(backbone, nn.Module) or not hasattr(backbone, "config"):
        raise UserError(f"model: {type(inner).__name__} is not a transformers model")
    return backbone


def find_blocks(model: nn.Module) -> list[FFNBlock]:
    """The FFN blocks of a transformers model, wrapped by PEFT or not, in order of depth.

    Raises:
        UserError: the architecture is unknown, or a block's maps are not plain, frozen
            `nn.Linear`s, which is what slicing them takes.
    """
    backbone = get_backbone(model)
    config: Any = backbone.config
    architecture = get_architecture(config)
    if getattr(config, "chunk_size_feed_forward", 0):
        raise UserError(
            f"model: chunk_size_feed_forward={config.chunk_size_feed_forward}: only 0 is allowed, "
            "since channels are chosen for a whole batch"
        )
    blocks = []
    layers = backbone.get_submodule(architecture.layers)
    for index, layer in enumerate(layers.children()):
        gate = architecture.gate
        blocks.append(
            FFNBlock(
                name=f"layer.{index}",
                layer=layer,
                architecture=architecture,
                lin1=_frozen_linear(layer, architecture.lin1, index),
                activation=layer.get_submodule(architecture.activation),
                lin2=_frozen_linear(layer, architecture.lin2, index),
                gate=None if gate is None else _frozen_linear(layer, gate, index),
            )
        )
    return blocks


def _frozen_linear(layer: nn.Module, path: str, index: int) -> nn.Linear:
    linear = layer.get_submodule(path)
    where = f"layer.{index}.{path}"
    if type(linear) is not nn.Linear:
        raise UserError(
            f"model: {where} is a {type(linear).__name__}; a plain nn.Linear, without an adapter, "
            "is allowed in the FFN"
        )
    if linear.weight.requires_grad:
        raise UserError(
            f"model: {where}.weight trains; only frozen FFN weights can be left out "
            "(wrap the model with peft.get_peft_model first)"
        )
    return linear
