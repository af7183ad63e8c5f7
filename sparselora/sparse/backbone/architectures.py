"""List the architectures, one row each; a new one is a row, here or from outside."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sparselora.errors import UserError
from sparselora.sparse.backbone.architecture import Architecture, ClassField

_BERT = Architecture(
    layers="encoder.layer",
    lin1="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    lin2="output.dense",
    attention=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    head=("classifier",),
    picks_first_token="bert.pooler",
)

_ELECTRA = replace(_BERT, picks_first_token="classifier")

_ROBERTA = replace(_ELECTRA, positions="ids")

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
    head_on_every_token=True,
    rotary=True,
)


def _like_llama(prefix: str) -> Architecture:
    """Return LLaMA's row with the classes of another family, whose names begin with `prefix`."""
    return replace(
        _LLAMA,
        rms_norm_class=f"{prefix}RMSNorm",
        gated_ffn_class=f"{prefix}MLP",
        rotary_attention_class=f"{prefix}Attention",
    )


_ROWS: dict[str, Architecture] = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "deberta-v2": replace(
        _BERT,
        attention=(
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.output.dense",
        ),
        head=("pooler", "classifier"),
        picks_first_token="pooler",
        query_of_distances=True,
    ),
    "distilbert": Architecture(
        layers="transformer.layer",
        lin1="ffn.lin1",
        activation="ffn.activation",
        lin2="ffn.lin2",  # its FFN module applies dropout as well, so it is not swapped whole
        attention=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
        ),
        head=("pre_classifier", "classifier"),
        picks_first_token="",
        intermediate_size="hidden_dim",
    ),
    "electra": _ELECTRA,
    "gemma": replace(_like_llama("Gemma"), rms_norm_class=None),  # which scales by 1 + w
    "gpt2": Architecture(
        layers="h",
        lin1="mlp.c_fc",
        activation="mlp.act",
        lin2="mlp.c_proj",
        attention=("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj"),
        head=("score",),
        intermediate_size="n_inner",
        head_on_every_token=True,
    ),
    "llama": _like_llama("Llama"),
    "mistral": _like_llama("Mistral"),
    "modernbert": Architecture(
        layers="layers",
        lin1="mlp.Wi",
        activation="mlp.act",
        lin2="mlp.Wo",
        gate="mlp.Wi",
        whole="mlp",
        inner_dropout="mlp.drop",
        attention=("attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo"),
        head=("head", "classifier"),
        picks_first_token="",  # unless its `classifier_pooling` says otherwise
        rotary=True,
    ),
    "mpnet": replace(
        _ROBERTA,
        padding_id=1,
        attention=(
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
        ),
    ),
    "opt": Architecture(
        layers="decoder.layers",
        called="decoder",  # its language model passes the backbone by
        positions="mask",
        lin1="fc1",
        activation="activation_fn",
        lin2="fc2",
        attention=(
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
        ),
        head=("score",),
        intermediate_size="ffn_dim",
        head_on_every_token=True,
    ),
    "phi3": replace(
        _LLAMA,
        rms_norm_class="Phi3RMSNorm",
        lin1="mlp.gate_up_proj",
        gate="mlp.gate_up_proj",
        activation="mlp.activation_fn",
        attention=(
            "self_attn.qkv_proj",
            "self_attn.qkv_proj",
            "self_attn.qkv_proj",
            "self_attn.o_proj",
        ),
    ),
    "qwen2": _like_llama("Qwen2"),
    "qwen3": _like_llama("Qwen3"),
    "roberta": _ROBERTA,
    "smollm3": _like_llama("SmolLM3"),
    "xlm-roberta": _ROBERTA,
}
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(_ROWS)
"""The `model_type` of a transformers config → its row, those that were registered among them."""


def register_architecture(model_type: str, row: Architecture) -> None:
    """Add a row to the table, so that models of that type can be made sparse and accelerated.

    To do so once more with an equal row changes nothing, as where a module is imported again.

    Args:
        model_type: of the models' transformers config.
        row: where their modules are; often another's with a few fields changed, as
            `dataclasses.replace(ARCHITECTURES["llama"], …)`.

    Raises:
        UserError: the type has another row already, or these are no name and no row.
    """
    if not isinstance(model_type, str) or not model_type.strip():
        raise UserError(f"architecture {model_type!r}: a config's model_type is needed")
    if not isinstance(row, Architecture):
        raise UserError(
            f"architecture {model_type!r}: {type(row).__name__} is no row; an Architecture is needed"
        )
    if _ROWS.get(model_type, row) != row:
        raise UserError(f"architecture {model_type!r}: has another row already")
    _ROWS[model_type] = row


def is_class_of_a_row(kind: type, field: ClassField) -> bool:
    """Return whether a row names this very class; a bare name is of one of transformers' models."""
    names = {getattr(row, field) for row in ARCHITECTURES.values()}
    module = kind.__module__
    return f"{module}.{kind.__qualname__}" in names or (
        module.startswith("transformers.models.") and kind.__name__ in names
    )
