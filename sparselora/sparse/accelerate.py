"""Make a LoRA step faster, dense as it is.

Faster are adapters, dropout, norms, rotations, gated FFNs, loss, and an encoder's last layer.

It computes what PEFT and transformers compute, with the same dropout rates, dense or sparse. Each module
that it speeds up becomes one of a subclass, so that PEFT, checkpoints and `isinstance` see what they saw
before.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from sparselora.plugins import load_plugins
from sparselora.sparse.acceleration import attention
from sparselora.sparse.acceleration.dropout import fast_dropout
from sparselora.sparse.acceleration.gated_ffn import fast_ffn
from sparselora.sparse.acceleration.last_layer import LastLayer
from sparselora.sparse.acceleration.lora import fast_lora
from sparselora.sparse.acceleration.rms_norm import fast_norm
from sparselora.sparse.acceleration.rotary import fast_rotary
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.lookup import get_backbone
from sparselora.sparse.backbone.quantized import give_back, keep_trainable
from sparselora.sparse.compat import ATTENTION, OWN_LOSS
from sparselora.sparse.ops.cross_entropy import causal_lm_loss
from sparselora.sparse.swap import mixin_of, new_owner, owned, put_on, take_off, unmixed

FAMILIES = (fast_lora, fast_dropout, fast_norm, fast_rotary, fast_ffn)
"""Each returns the class to put in the place of one; None for what is not of its kind, or a subclass."""


class Acceleration:
    """Hold what makes a model's step faster; `remove()` makes every module what it was."""

    def __init__(self, model: nn.Module) -> None:
        backbone: Any = get_backbone(model)  # raises before anything is touched
        if getattr(backbone.config, "model_type", None) not in ARCHITECTURES:
            load_plugins()
        self._model = model
        self._owner = new_owner()
        self._modules: list[nn.Module] = []
        self._configs: list[Any] = []
        self._losses: list[Any] = []
        self._packing: list[nn.Module] = []
        self._last_layer: LastLayer | None = None
        try:
            self._accelerate()
        except BaseException:
            self.remove()
            raise

    def _accelerate(self) -> None:
        self._packing = keep_trainable(self._model)
        losses = [each for each in self._model.modules() if _has_plain_loss(each)]
        for module in self._model.modules():
            kind = unmixed(type(module))
            fast = next((found for family in FAMILIES if (found := family(kind))), None)
            if fast is not None:
                self._modules.append(module)
                put_on(module, mixin_of(fast), self._owner)
        attention.register()
        for config in _configs(self._model):
            if getattr(config, ATTENTION) == "sdpa":
                self._configs.append(config)
                # Of this one alone: transformers' property sets those below it too.
                setattr(config, ATTENTION, attention.NAME)
        holder: Any
        for holder in losses:  # a property of transformers', set on the instance
            self._losses.append(holder)
            holder.loss_function = causal_lm_loss
        self._last_layer = LastLayer(self._model)

    def make_last_layer_full(self) -> None:
        """Compute the full last layer again, not the first token alone."""
        if self._last_layer is not None:
            self._last_layer.remove()
            self._last_layer = None

    def remove(self) -> None:
        """Make every module what it was, wherever it is now, with what it has learnt since."""
        self.make_last_layer_full()
        for module in {*self._modules, *owned(self._model.modules(), self._owner)}:
            take_off(module, self._owner)
        self._modules = []
        for config in self._configs:  # unless another was asked for since
            if getattr(config, ATTENTION) == attention.NAME:
                setattr(config, ATTENTION, "sdpa")
        self._configs = []
        for holder in self._losses:
            if vars(holder).get(OWN_LOSS) is causal_lm_loss:
                delattr(holder, OWN_LOSS)
        self._losses = []
        give_back(self._packing)
        self._packing = []


def _configs(model: nn.Module) -> list[Any]:
    """Return the configs that modules of a model are called by, each once, and those that they hold."""
    found: dict[int, Any] = {}
    waiting = [vars(module).get("config") for module in model.modules()]
    while waiting:
        config = waiting.pop()
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def _has_plain_loss(module: nn.Module) -> bool:
    # By transformers' property, with nothing of the user's own in its place.
    if getattr(type(module), "loss_function", None) is not PreTrainedModel.loss_function:
        return False
    plain: Any = module
    causal = getattr(module, "loss_type", None) == "ForCausalLM"
    return causal and OWN_LOSS not in vars(module) and plain.loss_function is ForCausalLMLoss


def accelerate(model: nn.Module) -> Acceleration:
    """Speed up a transformers model's LoRA step, dense as it is, until `remove()`.

    Where the classifier's head reads the first token alone, a training step computes its last layer for
    that token alone, unless hidden states are asked for, a hook of one's own is there, or activations
    are checkpointed, see `LastLayer`.

    On an architecture without a row in `ARCHITECTURES` the last layer alone is left as it is.

    Raises:
        UserError: not a transformers model; the model is as it was.
    """
    return Acceleration(model)
