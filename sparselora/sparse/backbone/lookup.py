"""Look up a transformers model: its row of the table, its sizes, its head, its backbone."""

from typing import Any

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from sparselora.errors import UserError
from sparselora.plugins import load_plugins
from sparselora.sparse.backbone.architecture import Architecture
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.model_shape import ModelShape


def get_architecture(config: Any) -> Architecture:
    """Return the row of the table for a transformers config.

    Raises:
        UserError: there is none; the message lists what is supported and how to add a row.
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type not in ARCHITECTURES:
        load_plugins()
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"model: no FFN blocks known for the architecture {model_type!r}; supported are "
            f"{', '.join(sorted(ARCHITECTURES))}; a new one is a row that "
            "sparselora.register_architecture takes"
        )
    return ARCHITECTURES[model_type]


def get_model_shape(config: Any) -> ModelShape:
    """Return the sizes of the model that a transformers config describes."""
    intermediate_size = getattr(config, get_architecture(config).intermediate_size)
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=intermediate_size or 4 * config.hidden_size,
    )


def get_head(model: nn.Module) -> nn.Module:
    """Return transformers' model, head included, out of PEFT's wrapper where it is in one."""
    inner: Any = model
    while isinstance(inner, PeftModel | PeftMixedModel | BaseTuner):
        inner = inner.model if isinstance(inner, BaseTuner) else inner.base_model
    head: nn.Module = inner
    return head


def get_backbone(model: nn.Module) -> nn.Module:
    """Return the model below adapters and head, as `AutoModel` makes it.

    Raises:
        UserError: this is not a transformers model.
    """
    inner = get_head(model)
    backbone = getattr(inner, "base_model", None)
    if not isinstance(backbone, nn.Module) or not hasattr(backbone, "config"):
        raise UserError(f"model: {type(inner).__name__} is not a transformers model")
    return backbone


def get_called(model: nn.Module) -> nn.Module:
    """Return the module that is called with the batch and its mask, whatever the task's head."""
    backbone: Any = get_backbone(model)
    return backbone.get_submodule(get_architecture(backbone.config).called)
