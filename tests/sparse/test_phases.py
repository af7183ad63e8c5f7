import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora.sparse.phases import Phases


@pytest.mark.parametrize(
    ("ratio", "total", "expected"), [(0.1, 312, 31), (0.2, 312, 62), (0.0, 5, 0), (0.5, 5, 3)]
)
def test_dense_start(ratio: float, total: int, expected: int) -> None:
    assert Phases.of_ratios(total, ratio).dense_start == expected


def test_phases_by_hand() -> None:
    phases = Phases.of_ratios(10, warmup=0.2, rampup=0.3, cooldown=0.1)
    shares = [phases.share(step) for step in range(1, 11)]
    assert shares == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0]
    assert phases.sparse_steps == 7
    assert phases.shares() == sum(shares)
    assert Phases.all_dense(4).shares() == 0
    assert phases.shares(4) == 0.75


@given(
    total=st.integers(1, 400),
    shares=st.tuples(st.floats(0, 0.33), st.floats(0, 0.33), st.floats(0, 0.33)),
)
def test_phases_rise_once_and_end_dense(total: int, shares: tuple[float, float, float]) -> None:
    phases = Phases.of_ratios(total, *shares)
    values = [phases.share(step) for step in range(1, total + 1)]
    sparse = [value for value in values if value > 0]
    assert len(sparse) == phases.sparse_steps
    assert sparse == sorted(sparse)
    assert all(value == 0 for value in values[: phases.dense_start])
    assert all(value == 0 for value in values[total - phases.dense_finish :])
