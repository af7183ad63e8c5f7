"""Where the FFN blocks of each architecture are: a table, one row each. A new architecture is a row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """A row of the table. Paths of modules are dotted and relative to what is named."""

    layers: str
    """The list of layers, below the backbone (`model.base_model`)."""
    lin1: str
    """First linear map of the FFN, below a layer; likewise the next two."""
    activation: str
    lin2: str
    attention: tuple[str, str, str, str]
    """The attention projections, below a layer: query, key, value, output; one fused map is named
    three times."""
    head: tuple[str, ...]
    """Modules of the classification head that train, below the model."""
    called: str = ""
    """What is called with the batch and its mask, below the backbone; the backbone itself where empty."""
    gate: str | None = None
    """The gate's linear map, where there is one; that of `lin1` again where one map holds both, the
    gate's rows first."""
    whole: str | None = None
    """A module that computes lin1 to lin2 and nothing else, where there is one: it is swapped whole."""
    inner_dropout: str | None = None
    """Dropout between activation and lin2, below a layer; only a rate of 0 is possible."""
    intermediate_size: str = "intermediate_size"
    """Name of the config's attribute that holds f; where that is None, f is 4 · hidden_size."""
    head_on_every_token: bool = False
    """Whether the head is applied before one token is picked, as decoders do."""
    picks_first_token: str | None = None
    """What takes the last layer's output at position 0 and no other, below the model: the model itself
    where empty; None where more is read."""
    query_of_distances: bool = False
    """Whether the query map is applied to embeddings of distances too."""
    rotary: bool = False
    """Whether position turns channels i and i + head_dim / 2 of query and key into each other."""
    positions: Literal["row", "ids", "mask"] = "row"
    """What a position is counted over where it is not turned: the row from its first token, padding too;
    the ids that are not the padding's; or the attention mask."""
    padding_id: int | None = None
    """The padding's id where it is the architecture's own, whatever its config says."""

    @property
    def pads_on_any_side(self) -> bool:
        """Whether padding on the left leaves a row's output as it is."""
        return self.head_on_every_token and (self.rotary or self.positions == "mask")

    @property
    def fused_attention(self) -> bool:
        """Whether query, key and value are one map."""
        return len(set(self.attention[:3])) == 1

    @property
    def query_of_some_tokens(self) -> bool:
        """Whether the query map can be applied to some tokens alone: it makes their queries only."""
        return not (self.fused_attention or self.query_of_distances)


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

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
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
        "gemma": _LLAMA,
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
        "llama": _LLAMA,
        "mistral": _LLAMA,
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
        "qwen2": _LLAMA,
        "qwen3": _LLAMA,
        "roberta": _ROBERTA,
        "smollm3": _LLAMA,
        "xlm-roberta": _ROBERTA,
    }
)
