"""The attention function that takes the place of transformers', against that."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparselora.sparse.acceleration import attention
from sparselora.sparse.acceleration.attention import NAME, attention_forward, register
from sparselora.sparse.acceleration.first_token import HELD


def module(is_causal: bool) -> Any:
    made: Any = nn.Identity()
    made.is_causal = is_causal
    made.config = SimpleNamespace()
    return made


def inputs(length: int, keys: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(2, 4, length, 5, requires_grad=True),
        torch.randn(2, keys, length, 5, requires_grad=True),
        torch.randn(2, keys, length, 5, requires_grad=True),
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 9, 130])  # over a block of queries, too
def test_without_dropout_it_is_transformers(length: int, causal: bool) -> None:
    owner: Any = module(causal)
    owner.num_key_value_groups = 2
    states = inputs(length)
    got, _ = attention_forward(owner, *states, None, scaling=0.3)
    expected, _ = sdpa_attention_forward(owner, *states, None, scaling=0.3)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad(got, states, upstream),
        torch.autograd.grad(expected, states, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_dropout_on_a_cpu_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    ours = attention.DropoutAttentionFunction

    class Counted(ours):  # type: ignore[misc, valid-type]
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            calls.append(args[4])
            return ours.forward(ctx, *args)

    monkeypatch.setattr(attention, "DropoutAttentionFunction", Counted)
    states = inputs(9, keys=4)
    output, _ = attention_forward(module(False), *states, None, dropout=0.2)
    assert calls == [0.2]
    assert output.shape == (2, 9, 4, 5)
    owner = module(False)
    owner.num_key_value_groups = 2
    attention_forward(owner, *inputs(9), None, dropout=0.2)
    assert calls == [0.2]  # shared keys, which it does not know, go transformers' way


def test_the_first_query_alone_where_it_alone_is_read() -> None:
    states = inputs(9, keys=4)
    owner = module(False)
    full, _ = attention_forward(owner, *states, None)
    owner.__dict__[HELD] = SimpleNamespace(alone=True)
    got, _ = attention_forward(owner, *states, None)
    torch.testing.assert_close(got[:, :1], full[:, :1])
    assert got.shape == full.shape
    assert not got[:, 1:].any()


def test_registering_adds_a_name() -> None:
    before = set(AttentionInterface().keys())
    register()
    assert set(AttentionInterface().keys()) == before | {NAME}
    assert AttentionInterface()[NAME] is attention_forward
