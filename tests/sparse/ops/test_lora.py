"""LoRA on a linear layer as one function, against autograd."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparselora.sparse.ops.dropout import keep_mask
from sparselora.sparse.ops.lora import LoRALinearFunction, SlicedLoRAFunction, adapter_rate

CPU = torch.device("cpu")


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    size_in=st.integers(1, 8),
    size_out=st.integers(1, 8),
    rank=st.integers(1, 4),
    rate=st.sampled_from([0.0, 0.3]),
    has_bias=st.booleans(),
)
def test_lora_function_against_autograd(
    rows: int, size_in: int, size_out: int, rank: int, rate: float, has_bias: bool
) -> None:
    torch.manual_seed(rows * 100 + size_in)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    x, a, b = (
        draw(*s).requires_grad_() for s in ((rows, size_in), (rank, size_in), (size_out, rank))
    )
    weight = draw(size_out, size_in)
    bias = draw(size_out).requires_grad_() if has_bias else None
    inputs = [tensor for tensor in (x, a, b, bias) if tensor is not None]
    torch.manual_seed(5)
    got = LoRALinearFunction.apply(x, weight, bias, a, b, 1.7, rate)
    torch.manual_seed(5)
    mask = keep_mask(x.shape, rate, CPU).double() / (1 - rate) if rate else torch.ones(())
    expected = nn.functional.linear(x, weight, bias) + 1.7 * (x * mask) @ a.T @ b.T
    torch.testing.assert_close(got, expected)
    upstream = draw(rows, size_out)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6),
    size_in=st.integers(2, 8),
    size_out=st.integers(2, 8),
    rank=st.integers(0, 3),
    by_rows=st.booleans(),
    has_bias=st.booleans(),
    rate=st.sampled_from([0.0, 0.3]),
)
def test_sliced_function_against_a_masked_layer(
    rows: int, size_in: int, size_out: int, rank: int, by_rows: bool, has_bias: bool, rate: float
) -> None:
    torch.manual_seed(rows * 100 + size_in * 10 + size_out)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    width = size_out if by_rows else size_in
    indices = torch.randperm(width)[: (width + 1) // 2].sort().values
    weight = draw(size_out, size_in)
    kept = weight[indices] if by_rows else weight[:, indices].t().contiguous()
    x = draw(rows, size_in).requires_grad_()
    bias = draw(size_out).requires_grad_() if has_bias else None
    a = draw(rank, size_in).requires_grad_() if rank else None
    b = draw(size_out, rank).requires_grad_() if rank else None
    torch.manual_seed(5)
    got = SlicedLoRAFunction.apply(
        x, kept, bias, indices, size_out if by_rows else None, a, b, 1.7, rate
    )
    masked = torch.zeros_like(weight)
    if by_rows:
        masked[indices] = weight[indices]
    else:
        masked[:, indices] = weight[:, indices]
    expected = nn.functional.linear(x, masked, bias)
    if a is not None and b is not None:
        torch.manual_seed(5)
        mask = keep_mask(x.shape, rate, CPU).double() / (1 - rate) if rate else torch.ones(())
        expected = expected + 1.7 * (x * mask) @ a.T @ b.T
    torch.testing.assert_close(got, expected)
    inputs = [tensor for tensor in (x, bias, a, b) if tensor is not None]
    upstream = draw(rows, size_out)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_rate_of_an_adapters_dropout() -> None:
    assert adapter_rate(nn.Dropout(0.3)) == 0.3
    assert adapter_rate(nn.Dropout(0.3).eval()) == 0.0
    assert adapter_rate(nn.Identity()) == 0.0
