"""Find the parts of a transformers model that have no layer number: its row, sizes, head and backbone."""

from typing import Any

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES, Architecture
from sparselora.sparse.backbone.model_shape import ModelShape


def get_architecture(config: Any) -> Architecture:
    """The row for a transformers config.

    Raises:
        UserError: there is none; the message lists what is supported and how to add a row.
    """
    model_type = str(getattr(config, "model_type", None))
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"model: no FFN blocks known for the architecture {model_type!r}; supported are "
            f"{', '.join(sorted(ARCHITECTURES))}; a new one is a row of ARCHITECTURES in "
            "sparselora.sparse.backbone.architectures"
        )
    return ARCHITECTURES[model_type]


def get_model_shape(config: Any) -> ModelShape:
    """Sizes of the model that a transformers config describes."""
    intermediate_size = getattr(config, get_architecture(config).intermediate_size)
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=intermediate_size or 4 * config.hidden_size,
    )


def get_head(model: nn.Module) -> nn.Module:
    """transformers' model, head included, out of PEFT's wrapper where it is in one."""
    inner: Any = model
    while isinstance(inner, PeftModel | PeftMixedModel | BaseTuner):
        inner = inner.model if isinstance(inner, BaseTuner) else inner.base_model
    head: nn.Module = inner
    return head


def get_backbone(model: nn.Module) -> nn.Module:
    """The encoder below adapters and head: the module that is called with `attention_mask`."""
    inner = get_head(model)
    backbone = getattr(inner, "base_model", None)
    if not isinstance(backbone, nn.Module) or not hasattr(backbone, "config"):
        raise UserError(f"model: {type(inner).__name__} is not a transformers model")
    return backbone


def get_called(model: nn.Module) -> nn.Module:
    """What is called with the batch and its `attention_mask`, whatever the task's head."""
    backbone: Any = get_backbone(model)
    return backbone.get_submodule(get_architecture(backbone.config).called)
