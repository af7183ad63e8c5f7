import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora.errors import UserError
from sparselora.sparse.allocation import LEVELS, allocate, lower_hull
from sparselora.sparse.schedule import MAX_SPARSITY


def test_hull_by_hand() -> None:
    levels = (0.0, 0.5, 0.75, 1.0)
    assert lower_hull((0.0, 0.1, 0.3, 1.0), levels) == [0, 1, 2, 3]
    # The second point lies above the line from the first to the third.
    assert lower_hull((0.0, 0.8, 0.9, 1.0), levels) == [0, 3]


def test_the_layer_that_costs_less_gets_more() -> None:
    cheap = [0.1 * level**2 for level in LEVELS]
    dear = [level**2 for level in LEVELS]
    values = allocate([dear, cheap, dear], 0.5)
    assert sum(values) / 3 == pytest.approx(0.5)
    assert values[1] > 0.8 > 0.5 > max(values[0], values[2])


curves = st.lists(
    st.lists(st.floats(0, 10), min_size=len(LEVELS) - 1, max_size=len(LEVELS) - 1).map(
        lambda steps: [0.0, *np.cumsum(steps).tolist()]
    ),
    min_size=1,
    max_size=8,
)


@given(curves=curves, target=st.floats(0, MAX_SPARSITY))
def test_mean_is_exact_and_no_exchange_helps(curves: list[list[float]], target: float) -> None:
    values = allocate(curves, target)
    assert sum(values) / len(values) == pytest.approx(target, abs=1e-9)
    assert all(-1e-12 <= value <= MAX_SPARSITY + 1e-12 for value in values)

    def cost(layer: int, sparsity: float) -> float:
        hull = lower_hull(curves[layer])
        return float(
            np.interp(sparsity, [LEVELS[i] for i in hull], [curves[layer][i] for i in hull])
        )

    for one, two in itertools.permutations(range(len(values)), 2):
        for step in (0.01, 0.1):
            if values[one] + step > MAX_SPARSITY or values[two] - step < 0:
                continue
            before = cost(one, values[one]) + cost(two, values[two])
            after = cost(one, values[one] + step) + cost(two, values[two] - step)
            assert after >= before - 1e-9 * max(before, 1)


def test_fixed_layers_stay_and_may_leave_no_room() -> None:
    flat = [list(LEVELS)] * 3
    values = allocate(flat, 0.5, {0: 0.0})
    assert values[0] == 0.0
    assert sum(values) / 3 == pytest.approx(0.5)
    with pytest.raises(UserError, match="leave"):
        allocate(flat, 0.9, {0: 0.0})
