"""Whether a call reads the first token alone, and the modules that compute it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparselora.sparse.acceleration.first_token import (
    HELD,
    AnnounceHead,
    EndCall,
    FFNInput,
    FFNOutput,
    FirstToken,
    NoteCall,
    Query,
    TokenByToken,
    first_token_alone,
)
from sparselora.sparse.swap import new_owner, put_on


def model(**config: Any) -> Any:
    module: Any = nn.Identity()
    module.config = SimpleNamespace(**config)
    return module


def announced(head: Any, backbone: Any, is_intact: bool = True, **kwargs: Any) -> FirstToken:
    first = FirstToken()
    AnnounceHead(first)(head, (), kwargs)
    NoteCall(first, lambda: is_intact)(backbone, (), kwargs)
    return first


def test_a_call_from_a_head_that_trains_reads_the_first_token() -> None:
    first = announced(model(), model())
    assert first.alone
    EndCall(first)(model(), (), None)
    assert not first.alone


@pytest.mark.parametrize(
    ("head", "backbone", "more"),
    [
        (model().eval(), model(), {}),
        (model(), model().eval(), {}),
        (model(), model(), {"is_intact": False}),
        (model(), model(), {"output_hidden_states": True}),
        (model(output_attentions=True), model(), {}),
        (model(), model(output_hidden_states=True), {}),
    ],
)
def test_other_calls_read_all(head: Any, backbone: Any, more: Any) -> None:
    assert not announced(head, backbone, **more).alone


def test_an_announcement_is_of_one_call() -> None:
    first = FirstToken()
    AnnounceHead(first)(model(), (), {})
    note = NoteCall(first, lambda: True)
    note(model(), (), {})
    assert first.alone
    note(model(), (), {})  # by another than the head
    assert not first.alone


def changed(mixin: type, first: FirstToken) -> nn.Linear:
    linear = nn.Linear(3, 3)
    linear.__dict__[HELD] = first
    put_on(linear, mixin, new_owner())
    return linear


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("mixin", [TokenByToken, Query])
def test_others_than_the_first_are_zeros(mixin: type, alone: bool) -> None:
    first = FirstToken()
    first.alone = alone
    linear = changed(mixin, first)
    x = torch.randn(2, 4, 3)
    expected = nn.functional.linear(x, linear.weight, linear.bias)
    if alone:
        assert first_token_alone(linear)
        expected[:, 1:] = 0.0
    torch.testing.assert_close(linear(x), expected)
    if mixin is Query:
        linear.needs_all_tokens = True
        torch.testing.assert_close(linear(x), nn.functional.linear(x, linear.weight, linear.bias))
    linear.eval()
    assert not first_token_alone(linear)


@pytest.mark.parametrize("alone", [False, True])
def test_an_ffn_is_handed_one_token_and_gives_all(alone: bool) -> None:
    first = FirstToken()
    first.alone = alone
    into, out = changed(FFNInput, first), changed(FFNOutput, first)
    x = torch.randn(2, 4, 3)
    inner = into(x)
    assert inner.shape == (2, 1 if alone else 4, 3)
    y = out(inner)
    assert y.shape == x.shape
    assert bool(y[:, 1:].any()) != alone
