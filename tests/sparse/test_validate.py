import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora.errors import UserError
from sparselora.sparse.validate import (
    PHASE_KEYS,
    check_at_least,
    check_choice,
    check_phases,
    check_share,
    check_sparsity,
    is_count,
    shown,
)


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers(-3, 3))
def test_a_sparsity_and_a_share_lie_from_0_up_to_1(value: float) -> None:
    for check in (check_sparsity, check_share):
        if 0 <= value < 1:
            check("some.key", value)
        else:
            with pytest.raises(UserError, match=r"^some\.key=.*from 0 up to, not including, 1"):
                check("some.key", value)


@given(st.none() | st.floats(allow_nan=True, allow_infinity=True), st.integers(-2, 2))
def test_a_least_number_is_finite_or_null(value: float | None, least: int) -> None:
    if value is None or (math.isfinite(value) and value >= least):
        check_at_least("key", value, least)
    else:
        with pytest.raises(UserError, match=f"a finite number of at least {least} is allowed"):
            check_at_least("key", value, least)


def test_a_choice_names_what_there_is() -> None:
    check_choice("key", "b", ("a", "b"))
    with pytest.raises(UserError, match=r"^key=c: must be one of a, b$"):
        check_choice("key", "c", ("a", "b"))


@given(st.lists(st.floats(0, 0.99), min_size=3, max_size=3))
def test_phases_leave_a_sparse_step(shares: list[float]) -> None:
    if sum(shares) < 1:
        check_phases(*shares)
    else:
        with pytest.raises(UserError, match="together less than 1 is allowed"):
            check_phases(*shares)


@pytest.mark.parametrize("place", range(3))
def test_the_phase_that_is_wrong_is_named(place: int) -> None:
    shares = [0.1, 0.1, 0.1]
    shares[place] = -0.5
    with pytest.raises(UserError, match=f"^{re.escape(PHASE_KEYS[place])}=-0.5"):
        check_phases(*shares)


def test_counts_and_how_values_are_shown() -> None:
    assert [is_count(value) for value in (1, 7, 0, -1, True, 1.0, None, "1")] == [
        *(True, True),
        *[False] * 6,
    ]
    assert [shown(value) for value in (None, 0.5, 3, "x")] == ["null", "0.5", "3", "'x'"]
