"""Compute the last layer for the first token alone, where the classification head reads no other.

Keys and values are of all tokens still. The query, attention, its output layer and the FFN are of the
first alone; at the others they give zeros, so what the layer gives there is of no use, and no gradient
comes from there. For given channels, loss and gradients are those of the full layer.
"""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from sparselora.errors import UserError
from sparselora.sparse.acceleration.first_token import (
    HELD,
    AnnounceHead,
    EndCall,
    FFNInput,
    FFNOutput,
    FirstToken,
    FirstTokenOnly,
    NoteCall,
    Query,
    TokenByToken,
)
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.lookup import get_architecture, get_backbone, get_called, get_head
from sparselora.sparse.backbone.paths import module_at
from sparselora.sparse.compat import FORWARD_HOOKS, FORWARD_PRE_HOOKS
from sparselora.sparse.swap import new_owner, owned, put_on, take_off, unmixed

KNOWN_HOOKS = ("sparselora.", "transformers.utils.output_capturing")
"""Modules of hooks that read no hidden state, but where a call asks for them."""
CHECKPOINTED = "gradient_checkpointing"
"""Attribute of transformers' modules: whether their activations are made again in the backward pass."""
BY_TOKEN = frozenset(
    ("adalora", "boft", "hra", "ia3", "loha", "lokr", "lora", "oft", "vblora", "vera")
)
"""PEFT's methods that give of a token what that token alone asks for; variants of LoRA aside."""


def _is_transformers_own(head: nn.Module, path: str) -> bool:
    """Return whether what picks the token, and what PEFT trains in its place, are of the head's file."""
    picker: Any = head if not path else module_at(head, path)
    if picker is None:
        raise UserError(
            f"architecture: picks_first_token={path!r}: {type(head).__name__} has no module of that name"
        )
    copies = getattr(picker, "modules_to_save", None)
    all_of_it = [picker] if copies is None else [picker.original_module, *copies.values()]
    file = type(head).__module__
    return all(type(each).__module__ == file and "forward" not in vars(each) for each in all_of_it)


def reads_first_token(model: nn.Module) -> bool:
    """Return whether a model is transformers' own classifier, which reads position 0 alone."""
    backbone: Any = get_backbone(model)
    config, head = backbone.config, get_head(model)
    if getattr(config, "model_type", None) not in ARCHITECTURES:
        return False
    known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    picker = get_architecture(config).picks_first_token
    return (
        picker is not None
        and type(head) is known
        and "forward" not in vars(head)
        and type(backbone).__module__ == type(head).__module__
        and _is_transformers_own(head, picker)
        and getattr(config, "classifier_pooling", "cls") == "cls"
        and not getattr(config, "is_decoder", False)
        and config.num_hidden_layers > 1  # a convolution of DeBERTa's follows its first layer
    )


class _Watch:
    """Look, before each call, for whoever would read more of the last layer or has changed it."""

    def __init__(self, head: nn.Module, paths: list[str]) -> None:
        backbone: Any = get_backbone(head)
        self.head, self.paths = head, paths
        row = get_architecture(backbone.config)
        self.layers = backbone.get_submodule(row.layers)
        *others, self.layer = self.layers.children()
        before = {id(module) for layer in others for module in layer.modules()}
        before |= {
            id(module)
            for name, child in backbone.named_children()
            if "embeddings" in name
            for module in child.modules()
        }
        self.looked_at = [each for each in head.modules() if id(each) not in before][1:]

    @torch.compiler.assume_constant_result
    def __call__(self) -> bool:
        *_, last = self.layers.children()
        changed = [module_at(last, path) for path in self.paths]
        return (
            last is self.layer
            and reads_first_token(self.head)
            and all(isinstance(module, FirstTokenOnly) for module in changed)
            and not any(_is_looked_at(module) for module in self.looked_at)
            and not any(_mixes_tokens(part) for each in changed if each for part in each.modules())
        )


def _mixes_tokens(module: nn.Module) -> bool:
    """Return whether an adapter may need more than a token for that token's output, as Lily's router."""
    if not isinstance(module, BaseTunerLayer):
        return False
    package = unmixed(type(module)).__module__.split(".")
    known = package[:2] == ["peft", "tuners"] and package[2] in BY_TOKEN
    return not known or bool(getattr(module, "lora_variant", None))


def _is_looked_at(module: nn.Module) -> bool:
    """Return whether a hook sees what a module gives, or a backward pass will compute it again."""
    # Of each module of a layer before each call: an attribute that is missing takes torch 10 µs to find.
    state = module.__dict__
    if "forward" in state:
        return True
    again = state.get(CHECKPOINTED)
    if getattr(type(module), CHECKPOINTED, False) if again is None else again:
        return True
    hooks, pre_hooks = state[FORWARD_HOOKS], state[FORWARD_PRE_HOOKS]
    return bool(hooks or pre_hooks) and any(
        not str(getattr(hook, "__module__", "")).startswith(KNOWN_HOOKS)
        for hook in (*hooks.values(), *pre_hooks.values())
    )


class LastLayer:
    """Have a last layer compute the first token alone; do nothing where the head reads more."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._owner = new_owner()
        self._modules: list[nn.Module] = []
        self._hooks: list[Any] = []
        if not reads_first_token(model):
            return
        kinds, layer = _kinds(model), _last(model)
        modules = {path: module_at(layer, path) for path in kinds}
        attention = module_at(layer, _attention_path(model))
        if attention is None or any(
            module is None or "forward" in vars(module) or isinstance(module, FirstTokenOnly)
            for module in modules.values()
        ):
            return  # changed or placed on several devices by another, or accelerated before
        first = FirstToken()
        for path, module in modules.items():
            assert module is not None
            module.__dict__[HELD] = first
            put_on(module, kinds[path], self._owner)
            self._modules.append(module)
        attention.__dict__[HELD] = first
        self._modules.append(attention)
        head, called = get_head(model), get_called(model)
        note = NoteCall(first, _Watch(head, list(kinds)))
        self._hooks = [
            head.register_forward_pre_hook(AnnounceHead(first), with_kwargs=True),
            called.register_forward_pre_hook(note, with_kwargs=True),
            called.register_forward_hook(EndCall(first)),
        ]

    def remove(self) -> None:
        """Have the layer compute all tokens, as it did before."""
        for hook in self._hooks:
            hook.remove()
        for module in {*self._modules, *owned(self._model.modules(), self._owner)}:
            take_off(module, self._owner)
            module.__dict__.pop(HELD, None)
        self._modules, self._hooks = [], []


def _last(model: nn.Module) -> nn.Module:
    backbone: Any = get_backbone(model)
    *_, layer = backbone.get_submodule(get_architecture(backbone.config).layers).children()
    last: nn.Module = layer
    return last


def _attention_path(model: nn.Module) -> str:
    """Return the path, below a layer, of the module that calls the attention function."""
    return get_architecture(get_backbone(model).config).attention[0].rpartition(".")[0]


def _kinds(model: nn.Module) -> dict[str, type[FirstTokenOnly]]:
    """Return the class to mix in at each path below the layer."""
    row = get_architecture(get_backbone(model).config)
    query, _, _, output = row.attention
    kinds: dict[str, type[FirstTokenOnly]] = {output: TokenByToken}
    if row.query_of_some_tokens:
        kinds[query] = Query
    if row.whole is not None:
        return {**kinds, row.whole: TokenByToken}
    return {**kinds, row.lin1: FFNInput, row.lin2: FFNOutput}
