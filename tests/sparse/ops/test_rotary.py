"""Rotation of one tensor as one function, against transformers' own."""

import torch
import transformers.models.llama.modeling_llama as modeling_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparselora.sparse.ops.rotary import RotaryFunction


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 3),
    tokens=st.integers(1, 4),
    half=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_function_against_the_original(heads: int, tokens: int, half: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    # As attention has it: heads before tokens, by a view. The halves of cos and sin may differ.
    x = draw(2, tokens, heads, 2 * half).transpose(1, 2).requires_grad_()
    cos, sin = draw(2, tokens, 2 * half), draw(2, tokens, 2 * half)
    expected, _ = modeling_llama.apply_rotary_pos_emb(x, x, cos, sin)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    torch.testing.assert_close(RotaryFunction.apply(x, cos, sin), expected)
    assert torch.autograd.gradcheck(lambda each: RotaryFunction.apply(each, cos, sin), x)
