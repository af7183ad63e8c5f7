"""Rows in another order and padded, against torch's own."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.sparse.ops.rows import pad, permute


@given(rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_permute_is_an_index_and_backward_its_inverse(rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    order = torch.randperm(rows)
    x = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    permuted = permute(x, order, order.argsort())
    assert torch.equal(permuted, x[order])
    upstream = torch.randn_like(permuted)
    (gradient,) = torch.autograd.grad(permuted, x, upstream)
    (expected,) = torch.autograd.grad(x[order], x, upstream)
    assert torch.equal(gradient, expected)


@given(batch=st.integers(1, 4), length=st.integers(1, 6), trailing=st.integers(0, 2))
def test_pad_is_torchs(batch: int, length: int, trailing: int) -> None:
    first = torch.randn(batch, 1, *([3] * trailing), dtype=torch.float64, requires_grad=True)
    padded = pad(first, length)
    assert padded.shape == (batch, length, *([3] * trailing))
    assert torch.equal(padded[:, :1], first)
    assert not padded[:, 1:].any()
    upstream = torch.randn_like(padded)
    (gradient,) = torch.autograd.grad(padded, first, upstream)
    assert torch.equal(gradient, upstream[:, :1])
