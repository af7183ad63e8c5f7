"""RMSNorm as one function, against autograd."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora.sparse.ops.rms_norm import RMSNormFunction


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 9), seed=st.integers(0, 999))
def test_function_against_autograd(rows: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, width, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(width, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda each: RMSNormFunction.apply(each, weight, 1e-6), x)
    expected = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
    torch.testing.assert_close(RMSNormFunction.apply(x, weight, 1e-6), expected)


def test_a_zero_row_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    RMSNormFunction.apply(x, torch.ones(4), 1e-6).sum().backward()
    assert torch.isfinite(x.grad).all()
