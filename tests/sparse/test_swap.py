"""Mixins on one module: put on, taken off, copied and pickled."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from sparselora.sparse import swap
from sparselora.sparse.swap import (
    mixed,
    mixin_of,
    new_owner,
    owned,
    plain_view,
    put_on,
    run_on_load,
    take_off,
    unmixed,
)


class Twice:
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        original: Any = super()
        doubled: torch.Tensor = 2 * original.forward(x)
        return doubled


class PlusOne:
    RANK = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        original: Any = super()
        more: torch.Tensor = 1 + original.forward(x)
        return more


@pytest.mark.parametrize("order", [(Twice, PlusOne), (PlusOne, Twice)])
def test_those_of_higher_rank_come_first(order: tuple[type, type]) -> None:
    module = nn.Identity()
    for mixin in order:
        put_on(module, mixin, new_owner())
    assert isinstance(module, nn.Identity)
    assert unmixed(type(module)) is nn.Identity
    assert mixin_of(type(module)) is PlusOne
    assert module(torch.tensor(3.0)) == 7.0
    assert plain_view(module)(torch.tensor(3.0)) == 3.0


def test_a_mixin_goes_with_the_last_of_its_owners() -> None:
    module = nn.Identity()
    state = sorted(vars(module))
    one, other = new_owner(), new_owner()
    for owner in (one, other):
        put_on(module, Twice, owner)
    assert type(module) is mixed(Twice, nn.Identity)  # once
    assert take_off(module, one) == []
    assert module(torch.ones(())) == 2.0
    assert owned([module, nn.Identity()], other) == [module]
    assert take_off(module, other) == [Twice]
    assert type(module) is nn.Identity
    assert sorted(vars(module)) == state
    assert take_off(module, other) == []


def test_a_class_that_was_set_since_stays() -> None:
    module, owner = nn.Linear(2, 2), new_owner()
    put_on(module, Twice, owner)
    torch.nn.utils.parametrize.register_parametrization(module, "weight", nn.Identity())
    kind = type(module)
    assert take_off(module, owner) == [Twice]
    assert type(module) is kind


def test_copies_and_pickles_are_mixed_alike() -> None:
    module = nn.Linear(2, 3)
    put_on(module, Twice, new_owner())
    put_on(module, PlusOne, new_owner())
    x = torch.randn(4, 2)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is type(module)
        assert other.weight is not module.weight
        assert torch.equal(other(x), module(x))


CALLS: list[str] = []


def prepare() -> None:
    CALLS.append("prepared")


def test_what_has_to_be_there_is_prepared_where_one_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swap, "_PREPARATIONS", [])
    run_on_load(prepare)
    module = nn.Identity()
    put_on(module, Twice, new_owner())
    saved = pickle.dumps(module)
    assert not CALLS
    monkeypatch.setattr(
        swap, "_PREPARATIONS", []
    )  # as in a process that has imported nothing of it
    pickle.loads(saved)
    assert CALLS == ["prepared"]
