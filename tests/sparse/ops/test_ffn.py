"""The sparse FFN's function, against autograd."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.activations import ACT2FN

from sparselora.sparse.ops.ffn import SparseFFNFunction


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 7),
    hidden=st.integers(1, 9),
    kept=st.integers(1, 11),
    has_bias=st.booleans(),
    has_gate=st.booleans(),
    rank=st.integers(0, 3),
    activation=st.sampled_from(
        [nn.GELU(), nn.GELU("tanh"), nn.ReLU(), nn.SiLU(), nn.Tanh(), ACT2FN["gelu_new"]]
    ),
)
def test_function_against_autograd(
    rows: int,
    hidden: int,
    kept: int,
    has_bias: bool,
    has_gate: bool,
    rank: int,
    activation: nn.Module,
) -> None:
    generator = torch.Generator().manual_seed(rows * 100 + hidden * 10 + kept)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(rows, hidden).requires_grad_()
    w1, w2 = draw(kept, hidden), draw(kept, hidden)
    b1 = draw(kept).requires_grad_() if has_bias else None
    b2 = draw(hidden).requires_grad_() if has_bias else None
    wg = draw(kept, hidden) if has_gate else None
    bg = draw(kept).requires_grad_() if has_gate and has_bias else None
    down, up = (draw(hidden, rank), draw(rank, hidden)) if rank else (None, None)
    inputs = [tensor for tensor in (x, b1, b2, bg) if tensor is not None]
    got = SparseFFNFunction.apply(x, w1, b1, w2, b2, activation, wg, bg, down, up)
    first = nn.functional.linear(x, w1, b1)
    inner = activation(first) if wg is None else activation(nn.functional.linear(x, wg, bg)) * first
    expected = inner @ w2 + (0 if b2 is None else b2)
    if down is not None and up is not None:
        expected = expected + x @ down @ up
    torch.testing.assert_close(got, expected)
    upstream = draw(rows, hidden)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_weights_are_saved_gathered_and_no_activation_is() -> None:
    """What waits for the backward pass: pre-activations (N, k) and two (k, d), nothing of size f."""
    saved: list[torch.Size] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.shape)
        return tensor

    x = torch.randn(50, 24, requires_grad=True)
    w1, w2 = torch.randn(10, 24), torch.randn(10, 24)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        SparseFFNFunction.apply(x, w1, None, w2, None, nn.GELU())
    assert sorted(map(tuple, saved)) == [(10, 24), (10, 24), (50, 10)]
