"""Describe an architecture: where its modules are, and which classes they are of."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sparselora.errors import UserError

ClassField = Literal["rms_norm_class", "gated_ffn_class", "rotary_attention_class"]
CLASSES: tuple[ClassField, ...] = get_args(ClassField)
"""Fields of a row that name a class which `accelerate` knows how to speed up."""


@dataclass(frozen=True)
class Architecture:
    """Describe where things are in the models of one architecture: a row of the table.

    Paths of modules are dotted and relative to what is named.

    Raises:
        UserError: a path is none, or there are not four of attention.
    """

    layers: str
    """The list of layers, below the backbone (`model.base_model`)."""
    lin1: str
    """First linear layer of the FFN, below a layer; likewise the next two."""
    activation: str
    lin2: str
    attention: tuple[str, str, str, str]
    """The attention projections, below a layer: query, key, value, output; one fused layer is named
    three times."""
    head: tuple[str, ...]
    """Modules of the classification head that train, below the model."""
    called: str = ""
    """What is called with the batch and its mask, below the backbone; the backbone itself where empty."""
    gate: str | None = None
    """The gate's linear layer, where there is one; that of `lin1` again where one holds both, the
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
    """Whether the query projection is applied to embeddings of distances too."""
    rotary: bool = False
    """Whether position turns channels i and i + head_dim / 2 of query and key into each other."""
    positions: Literal["row", "ids", "mask"] = "row"
    """What a position is counted over where it is not turned: the row from its first token, padding too;
    the ids that are not the padding's; or the attention mask."""
    padding_id: int | None = None
    """The padding's id where it is the architecture's own, whatever its config says."""
    rms_norm_class: str | None = None
    """The class of its norms, where they compute x · (mean x² + variance_epsilon)^-½ · weight: the name
    of one of transformers' own, or of any with its module (`my_package.modeling.MyRMSNorm`); likewise
    the next two."""
    gated_ffn_class: str | None = None
    """Its FFN's, where it computes down_proj(act_fn(gate_proj(x)) · up_proj(x))."""
    rotary_attention_class: str | None = None
    """Its attention's, where its forward calls its own file's `apply_rotary_pos_emb`, of the formula of
    `ops.rotary`."""

    def __post_init__(self) -> None:
        for name in ("layers", "lin1", "activation", "lin2", "intermediate_size"):
            _check_path(name, getattr(self, name))
        for name in ("called", "picks_first_token"):  # which may be empty: what they are below
            if getattr(self, name) not in (None, ""):
                _check_path(name, getattr(self, name))
        for name in ("gate", "whole", "inner_dropout", *CLASSES):
            if getattr(self, name) is not None:
                _check_path(name, getattr(self, name))
        for name, count in (("attention", 4), ("head", None)):
            paths = getattr(self, name)
            if not isinstance(paths, tuple) or not paths or (count and len(paths) != count):
                raise UserError(
                    f"architecture: {name}={paths!r}: a tuple of {count or 'one or more'} paths is needed"
                )
            for path in paths:
                _check_path(name, path)
        if self.positions not in ("row", "ids", "mask"):
            raise UserError(
                f"architecture: positions={self.positions!r}: must be one of row, ids, mask"
            )

    @property
    def pads_on_any_side(self) -> bool:
        """Return whether padding on the left leaves a row's output as it is."""
        return self.head_on_every_token and (self.rotary or self.positions == "mask")

    @property
    def fused_attention(self) -> bool:
        """Return whether query, key and value are one projection."""
        return len(set(self.attention[:3])) == 1

    @property
    def query_of_some_tokens(self) -> bool:
        """Return whether queries can be computed for some tokens alone."""
        return not (self.fused_attention or self.query_of_distances)


def _check_path(name: str, path: Any) -> None:
    if not isinstance(path, str) or not all(
        part.isidentifier() or part.isdigit() for part in path.split(".")
    ):
        raise UserError(f"architecture: {name}={path!r}: a dotted path of names is needed")
