"""transformers' attention modules with the rotation of query and key as one function each."""

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.sparse.ops.rotary import RotaryFunction
from sparselora.sparse.swap import mixed

CLASSES = frozenset(
    f"{name}Attention" for name in ("Gemma", "Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3")
)
"""transformers' classes whose forward calls their module's `apply_rotary_pos_emb`, of this formula."""
APPLIED = "apply_rotary_pos_emb"


class _FastRotary:
    """Mixed into such a class, whose instance's state it shares."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        whole: Any = super()
        forward = whole.forward
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)  # a compiled graph fuses the original's passes itself
        return _with_rotation(forward.__func__)(self, *args, **kwargs)


def _with_rotation(forward: FunctionType) -> Callable[..., Any]:
    """The same code with `rotate` where it names `apply_rotary_pos_emb`; itself where that is replaced.

    A function's globals are its module's, where a change would be one for the whole process.
    """
    names, original = forward.__globals__, forward.__globals__.get(APPLIED)
    # What another put in its place, a wrapper too, was not written where the class was.
    written = getattr(original, "__code__", None)
    if written is None or written.co_filename != forward.__code__.co_filename:
        return forward
    fast = _rebound(forward, original)
    if fast is None:
        return forward
    rotate = fast.__globals__[APPLIED]
    fast.__globals__.update(names | {APPLIED: rotate})  # whatever else was changed there since
    return fast


@cache
def _rebound(forward: FunctionType, original: Callable[..., Any]) -> FunctionType | None:
    if APPLIED not in forward.__code__.co_names:
        return None

    def rotate(
        query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        same = query.dtype == key.dtype == cos.dtype == sin.dtype
        # Of other types the original rounds between its passes: on a GPU, where they are the most used,
        # fewer roundings are taken for the same.
        plain = same and (query.dtype == torch.float32 or query.is_cuda)
        if not plain or cos.requires_grad or sin.requires_grad:
            both: tuple[Tensor, Tensor] = original(query, key, cos, sin, unsqueeze_dim)
            return both
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return RotaryFunction.apply(query, cos, sin), RotaryFunction.apply(key, cos, sin)

    fast = FunctionType(
        forward.__code__,
        forward.__globals__ | {APPLIED: rotate},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    fast.__kwdefaults__ = forward.__kwdefaults__
    return fast


def fast_rotary(kind: type[nn.Module]) -> type[nn.Module] | None:
    """What stands in for an attention of class `kind`; None where it is none of `CLASSES`."""
    of_transformers = kind.__module__.startswith("transformers.models.")
    return mixed(_FastRotary, kind) if of_transformers and kind.__name__ in CLASSES else None
