"""The last layer for the first token alone, where the classification head reads no other.

Keys and values are of all tokens still. The query, attention, its output map and the FFN are of the first
alone; at the others they give zeros, so what the layer gives there is of no use, and no gradient comes
from there. Loss and gradients are those of the whole layer.
"""

from typing import Any

from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from sparselora.sparse.blocks import get_architecture, get_backbone, get_called
from sparselora.sparse.first_token import (
    HELD,
    AnnounceHead,
    FirstToken,
    NoteCall,
    first_token_alone,
    pad,
)
from sparselora.sparse.mixed import mixed, sharing
from sparselora.sparse.stand_in import is_sparse_projection, put_back


class _Whole:
    """Mixed into the class of what maps a token to a token: of the first alone, then padded."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        module: Any = self
        output: Tensor
        if not first_token_alone(module) or hidden_states.dim() != 3:
            output = whole.forward(hidden_states, *args, **kwargs)
            return output
        first: FirstToken = module.__dict__[HELD]
        first.length = hidden_states.shape[1]
        return pad(whole.forward(hidden_states[:, :1].contiguous(), *args, **kwargs), first.length)


class _Query(_Whole):
    """The same of the query map, but where its channels are chosen by all tokens."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        module: Any = self
        whole: Any = super(_Whole, module) if is_sparse_projection(module) else super()
        output: Tensor = whole.forward(hidden_states, *args, **kwargs)
        return output


class _Into:
    """Mixed into the class of an FFN's first map: of the first token alone."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        module: Any = self
        if module.__dict__[HELD].alone and hidden_states.dim() == 3:
            module.__dict__[HELD].length = hidden_states.shape[1]
            if module.training:
                hidden_states = hidden_states[:, :1].contiguous()
        output: Tensor = whole.forward(hidden_states, *args, **kwargs)
        return output


class _OutOf:
    """Mixed into the class of its last map: padded, where the first gave one token."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        whole: Any = super()
        module: Any = self
        first: FirstToken = module.__dict__[HELD]
        output: Tensor = whole.forward(hidden_states, *args, **kwargs)
        short = first.alone and hidden_states.dim() == 3 and hidden_states.shape[1] == 1
        return pad(output, first.length) if short else output


def reads_first_token(model: nn.Module) -> bool:
    """Whether this is transformers' own classifier, whose head takes position 0, of several layers."""
    backbone: Any = get_backbone(model)
    config = backbone.config
    unwrap: Any = getattr(model, "get_base_model", None)
    head = model if unwrap is None else unwrap()
    known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    return (
        get_architecture(config).head_on_first_token
        and type(head) is known
        and getattr(config, "classifier_pooling", "cls") == "cls"
        and config.num_hidden_layers > 1  # a convolution of DeBERTa's follows its first layer
    )


class LastLayer:
    """The stand-ins and hooks; none where the head reads more. Goes on top of all other stand-ins."""

    def __init__(self, model: nn.Module) -> None:
        self._swapped: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        self._hooks: list[Any] = []
        self._attention: nn.Module | None = None
        if not reads_first_token(model):
            return
        backbone: Any = get_backbone(model)
        row = get_architecture(backbone.config)
        *_, layer = backbone.get_submodule(row.layers).children()
        query, _, _, output = row.attention
        kinds: dict[str, type] = {output: _Whole}
        if not (row.fused_attention or row.query_of_distances):
            kinds[query] = _Query
        kinds |= {row.lin1: _Into, row.lin2: _OutOf} if row.whole is None else {row.whole: _Whole}
        taken = [layer.get_submodule(path).__dict__ for path in kinds]
        if any("forward" in each or HELD in each for each in taken):
            return  # placed on several devices by another's hooks, or accelerated before
        first = FirstToken()
        for path, kind in kinds.items():
            original = layer.get_submodule(path)
            original.__dict__[HELD] = first
            stand_in = sharing(original, mixed(kind, type(original)))
            layer.set_submodule(path, stand_in)
            self._swapped.append((layer, path, original, stand_in))
        self._attention = layer.get_submodule(query.rpartition(".")[0])
        self._attention.__dict__[HELD] = first
        unwrap: Any = getattr(model, "get_base_model", None)
        head = model if unwrap is None else unwrap()
        self._hooks = [
            module.register_forward_pre_hook(note, with_kwargs=True)
            for module, note in ((head, AnnounceHead(first)), (get_called(model), NoteCall(first)))
        ]

    def remove(self) -> None:
        """What was there before."""
        for hook in self._hooks:
            hook.remove()
        for parent, path, original, stand_in in self._swapped:
            put_back(parent, path, original, stand_in, HELD)
        if self._attention is not None:
            self._attention.__dict__.pop(HELD, None)
        self._swapped, self._hooks, self._attention = [], [], None
