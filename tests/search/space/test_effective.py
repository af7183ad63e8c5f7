from collections.abc import Sequence

import pytest

from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError
from sparselora.search.space.effective import (
    effective,
    has_effect,
    key_of,
    keys_of,
    remembered,
)
from tests.search.space.checks import check


def test_what_has_no_effect_is_dropped_and_its_reason_kept() -> None:
    dropped: dict[str, WithoutEffectError] = {}
    assert effective(["svd_rank=4", "estimator=static"], check, dropped) == ["estimator=static"]
    assert set(dropped) == {"svd_rank"}
    with pytest.raises(UserError, match=r"^ffn_sparsity=2"):
        effective(["ffn_sparsity=2"], check)


def test_key_of() -> None:
    assert [key_of(one) for one in ("a.b=c", "+a=b=c", "~x", "++y=1")] == ["a.b", "a", "x", "y"]


def test_a_setting_is_composed_once() -> None:
    calls = []

    def counting(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
        calls.append(overrides)
        return check(overrides)

    once = remembered(counting)
    for _ in range(2):
        once(["seed=1"])
        with pytest.raises(UserError, match="svd_rank=0"):
            once(["svd_rank=0"])
    assert len(calls) == 2


def test_keys_of() -> None:
    assert keys_of(["+a.b=c", "a.b=d", "~x"]) == {"a.b", "x"}


def test_a_key_that_is_wrong_for_another_reason_is_drawn_all_the_same() -> None:
    assert has_effect("svd_rank", ["estimator=svd", "svd_rank=4"], check)
    assert not has_effect("svd_rank", ["estimator=static", "svd_rank=4"], check)
    assert has_effect("svd_rank", ["estimator=svd", "svd_rank=0"], check)


def test_what_is_wrong_and_not_there_is_no_endless_loop() -> None:
    def refuse(_: Sequence[str]) -> tuple[RunConfig, list[float]]:
        raise WithoutEffectError("elsewhere", "elsewhere: without effect")

    with pytest.raises(WithoutEffectError, match="elsewhere"):
        effective(["a=1"], refuse)
