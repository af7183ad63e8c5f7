"""A faster path for a LoRA step, dense as it is: adapters, dropout, attention's too, norms, gated FFNs.

It computes what PEFT and transformers compute, with the same dropout rates, dense or sparse. Each module
that it replaces is swapped for one of a subclass that shares its state, so that PEFT, checkpoints and
`isinstance` see what they saw before.
"""

from typing import Any

from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from sparselora.sparse import attention
from sparselora.sparse.blocks import get_backbone
from sparselora.sparse.dropout import FastDropout
from sparselora.sparse.gated_ffn import fast_ffn
from sparselora.sparse.lora import FastLoraLinear
from sparselora.sparse.norm import fast_norm
from sparselora.sparse.stand_in import put_back, sharing

STAND_INS: dict[type[nn.Module], type[nn.Module]] = {
    LoraLinear: FastLoraLinear,
    nn.Dropout: FastDropout,
}
"""Class of a module → what stands in for it. Subclasses of theirs are left alone."""


class Acceleration:
    """The way back: `remove()` puts the original modules in place again."""

    def __init__(self, model: nn.Module) -> None:
        backbone: Any = get_backbone(model)  # raises before anything is touched
        self._swapped: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                original = type(child)
                kind = STAND_INS.get(original) or fast_norm(original) or fast_ffn(original)
                if kind is not None:
                    stand_in = sharing(child, kind)
                    self._swapped.append((parent, name, child, stand_in))
                    parent._modules[name] = stand_in
        # None where it was another's to set, and so is another's to set back.
        self._config = backbone.config if backbone.config._attn_implementation == "sdpa" else None
        if self._config is not None:
            attention.register()
            self._config._attn_implementation = attention.NAME

    def remove(self) -> None:
        """The same objects as before, with what they have learnt since."""
        for parent, name, child, stand_in in self._swapped:
            put_back(parent, name, child, stand_in)
        self._swapped = []
        if self._config is not None:
            self._config._attn_implementation = "sdpa"
            self._config = None


def accelerate(model: nn.Module) -> Acceleration:
    """Speed up a transformers model's LoRA step, dense as it is, until `remove()`.

    Raises:
        UserError: not a transformers model.
    """
    return Acceleration(model)
