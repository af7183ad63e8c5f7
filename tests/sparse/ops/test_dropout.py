"""Masks drawn on a CPU, and dropout by them."""

import math

import pytest
import torch

from sparselora.sparse.ops.dropout import DropoutFunction, apply_mask, drop, keep_mask, takes

CPU = torch.device("cpu")


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_rate_of_the_mask(rate: float) -> None:
    torch.manual_seed(0)
    count = 2_000_003
    keep = keep_mask((count,), rate, CPU)
    spread = math.sqrt(rate * (1 - rate) / count)
    assert abs(float((~keep).double().mean()) - rate) < 5 * spread + 2**-17
    # Neighbours, and the four that share a word, are independent.
    for lag in (1, 2, 3, 4):
        both = float((~keep[:-lag] & ~keep[lag:]).double().mean())
        assert abs(both - rate**2) < 6 * math.sqrt(rate**2 * (1 - rate**2) / count) + 1e-4


def test_masks_follow_torchs_seed() -> None:
    torch.manual_seed(3)
    first, second = keep_mask((7, 5), 0.5, CPU), keep_mask((7, 5), 0.5, CPU)
    torch.manual_seed(3)
    assert torch.equal(keep_mask((7, 5), 0.5, CPU), first)
    assert not torch.equal(first, second)


def test_gradient_is_masked_as_the_values_were() -> None:
    x = torch.randn(40, 50, dtype=torch.float64, requires_grad=True)
    y = DropoutFunction.apply(x, 0.25)
    kept = (y != 0).double()
    assert 0 < kept.mean() < 1
    torch.testing.assert_close(y, x * kept / 0.75)
    upstream = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(gradient, upstream * kept / 0.75)


def test_values_that_are_dropped_lack_the_scale() -> None:
    x = torch.randn(7, 5)
    dropped, keep, scale = drop(x, 0.5)
    torch.testing.assert_close(dropped, x * keep)
    assert scale == 1.0
    torch.testing.assert_close(apply_mask(x, keep, 0.5), 2 * x * keep)


def test_a_rate_without_effect_is_not_taken() -> None:
    x = torch.ones(1)
    assert takes(x, 0.5)
    assert not takes(x, 0.0)
    assert not takes(x, 1.0)
    assert not takes(torch.ones(1, device="meta"), 0.5)
