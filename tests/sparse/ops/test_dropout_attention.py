"""Attention with dropout as one function, against autograd."""

import pytest
import torch

from sparselora.sparse.ops.dropout import keep_mask
from sparselora.sparse.ops.dropout_attention import DropoutAttentionFunction, scaled_bmm

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("length", [1, 7])
def test_attention_function_against_autograd(length: int, kind: str) -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, length, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    mask = None
    if kind != "none":
        mask = torch.ones(2, 1, 1, length, dtype=torch.bool)
        mask[1, :, :, length // 2 + 1 :] = False
    added = None if mask is None else torch.zeros(mask.shape).double().masked_fill(~mask, -1e30)
    given_mask = added if kind == "added" else mask
    torch.manual_seed(1)
    got = DropoutAttentionFunction.apply(query, key, value, given_mask, 0.3, 0.4)
    torch.manual_seed(1)
    keep = keep_mask((6, length, length), 0.3, CPU).view(2, 3, length, length).double() / 0.7
    scores = 0.4 * query @ key.transpose(2, 3)
    weights = torch.softmax(scores if added is None else scores + added, -1)
    expected = (weights * keep) @ value
    torch.testing.assert_close(got, expected)
    upstream = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad(got, (query, key, value), upstream),
        torch.autograd.grad(expected, (query, key, value), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_query_with_nothing_to_attend_to_gets_zeros() -> None:
    query, key, value = (torch.randn(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[:, :, 1] = False
    output = DropoutAttentionFunction.apply(query, key, value, mask, 0.2, 0.5)
    assert torch.equal(output[:, :, 1], torch.zeros(1, 2, 4))
    output.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in (query, key, value))


def test_scaled_product() -> None:
    left, right = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    got = scaled_bmm(left, right.transpose(1, 2), 0.7)
    torch.testing.assert_close(got, 0.7 * left @ right.transpose(1, 2))
