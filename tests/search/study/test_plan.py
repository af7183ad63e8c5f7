from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st

from sparselora.search.study.plan import Plan


def plan(seed: int, **changes: Any) -> Plan:
    return Plan("s", ["accuracy"], 1, [], seed, optuna.samplers.RandomSampler, **changes)


@given(st.integers(0, 2**32), st.text(max_size=20))
def test_a_seed_is_of_32_bits_and_always_the_same(seed: int, place: str) -> None:
    assert plan(seed).seed_at(place) == plan(seed, max_drop=1.0).seed_at(place)
    assert 0 <= plan(seed).seed_at(place) < 2**32


def test_seeds_differ_by_place_and_by_the_plans_own() -> None:
    assert (
        len({plan(seed).seed_at(place) for seed in (1, 2) for place in ("0/x", "0/y", "1/x")}) == 6
    )


def test_a_seed_is_what_studies_were_begun_with() -> None:
    # The draws of a study that goes on follow from it.
    assert plan(1).seed_at("0/x") == 2367771013
