"""A faster path for a LoRA step, dense as it is: adapters, dropout, norms, rotations, gated FFNs, loss,
and an encoder's last layer.

It computes what PEFT and transformers compute, with the same dropout rates, dense or sparse. Each module
that it replaces is swapped for one of a subclass that shares its state, so that PEFT, checkpoints and
`isinstance` see what they saw before.
"""

from typing import Any

from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from sparselora.sparse import attention
from sparselora.sparse.blocks import get_backbone
from sparselora.sparse.dropout import FastDropout
from sparselora.sparse.gated_ffn import fast_ffn
from sparselora.sparse.last_layer import LastLayer
from sparselora.sparse.lora import FastLoraLinear
from sparselora.sparse.loss import causal_lm_loss
from sparselora.sparse.mixed import sharing
from sparselora.sparse.norm import fast_norm
from sparselora.sparse.quantized import give_back, keep_trainable
from sparselora.sparse.rotary import fast_rotary
from sparselora.sparse.stand_in import put_back

STAND_INS: dict[type[nn.Module], type[nn.Module]] = {
    LoraLinear: FastLoraLinear,
    nn.Dropout: FastDropout,
}
"""Class of a module → what stands in for it. Subclasses of theirs are left alone."""
FAMILIES = (fast_norm, fast_rotary, fast_ffn)
"""Each says what stands in for a class of transformers' that every model has one of its own of."""


class Acceleration:
    """The way back: `remove()` puts the original modules in place again."""

    def __init__(self, model: nn.Module) -> None:
        backbone: Any = get_backbone(model)  # raises before anything is touched
        self._losses: list[Any] = [each for each in model.modules() if _has_plain_loss(each)]
        self._swapped: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                kind = _stand_in(type(child))
                if kind is not None:
                    stand_in = sharing(child, kind)
                    self._swapped.append((parent, name, child, stand_in))
                    parent._modules[name] = stand_in
        # None where it was another's to set, and so is another's to set back.
        self._config = backbone.config if backbone.config._attn_implementation == "sdpa" else None
        if self._config is not None:
            attention.register()
            self._config._attn_implementation = attention.NAME
        self._packing = keep_trainable(model)
        for holder in self._losses:  # a property of transformers', set on the instance
            holder.loss_function = causal_lm_loss
        self._last_layer: LastLayer | None = None

    def shorten(self, model: nn.Module) -> None:
        """Compute of the last layer what the head reads, once all that stands in elsewhere is there."""
        self._last_layer = LastLayer(model)

    def lengthen(self) -> None:
        """The last layer whole again, before other stand-ins are taken away."""
        if self._last_layer is not None:
            self._last_layer.remove()
            self._last_layer = None

    def remove(self) -> None:
        """The same objects as before, with what they have learnt since."""
        self.lengthen()
        for parent, name, child, stand_in in self._swapped:
            put_back(parent, name, child, stand_in)
        self._swapped = []
        if self._config is not None:
            self._config._attn_implementation = "sdpa"
            self._config = None
        for holder in self._losses:
            if vars(holder).get("_loss_function") is causal_lm_loss:
                del holder._loss_function
        self._losses = []
        give_back(self._packing)
        self._packing = []


def _stand_in(kind: type[nn.Module]) -> type[nn.Module] | None:
    if kind in STAND_INS:
        return STAND_INS[kind]
    return next((found for family in FAMILIES if (found := family(kind))), None)


def _has_plain_loss(module: nn.Module) -> bool:
    # By transformers' property, with nothing of the user's own in its place.
    if getattr(type(module), "loss_function", None) is not PreTrainedModel.loss_function:
        return False
    plain: Any = module
    causal = getattr(module, "loss_type", None) == "ForCausalLM"
    return (
        causal and "_loss_function" not in vars(module) and plain.loss_function is ForCausalLMLoss
    )


def accelerate(model: nn.Module) -> Acceleration:
    """Speed up a transformers model's LoRA step, dense as it is, until `remove()`.

    Where the classifier's head reads the first token alone, a training step computes its last layer for
    that token alone, unless hidden states are asked for, a hook of one's own is there, or activations
    are checkpointed, see `LastLayer`.

    Raises:
        UserError: not a transformers model.
    """
    acceleration = Acceleration(model)
    acceleration.shorten(model)
    return acceleration
