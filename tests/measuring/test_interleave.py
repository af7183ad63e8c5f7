from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from sparselora.machine.timer import StepTimer
from sparselora.measuring.interleave import Budget, interleave, paired_ratio

CPU = torch.device("cpu")


class Fixed(StepTimer):
    """A timer that tells what it is told to."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__(CPU)
        self.told = milliseconds

    def milliseconds(self) -> float:
        return self.told


def test_drift_cancels_in_the_paired_ratio() -> None:
    generator = np.random.default_rng(0)
    drift = np.exp(np.cumsum(generator.normal(0, 0.3, 60)))  # the machine slows and speeds up
    noise = generator.normal(1, 0.01, (2, 60))
    slow, fast = 200 * drift * noise[0], 100 * drift * noise[1]
    interval = paired_ratio(slow.tolist(), fast.tolist())
    assert interval.low < 2.0 < interval.high
    assert interval.width < 0.03
    assert max(slow) / min(slow) > 3


def test_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for repeat in range(200):
        one, other = np.exp(generator.normal(0, 0.05, (2, 25)))
        interval = paired_ratio(one.tolist(), other.tolist(), seed=repeat)
        hits += interval.low <= 1.0 <= interval.high
    # 95 % of 200 is 190; 179 is four standard errors below.
    assert hits >= 179


def test_stopping_early_costs_little_coverage() -> None:
    # Looks every five rounds from ten on, as an early version had them, covered 88 to 91 % of the time.
    generator = np.random.default_rng(2)
    hits, repeats = 0, 120
    for repeat in range(repeats):
        budget = Budget(min_rounds=20, max_rounds=150, seconds=60, width=0.03, warmup_rounds=0)

        def noisy(_: int) -> StepTimer:
            return Fixed(float(np.exp(generator.normal(0, 0.04))))

        def watched(times: Mapping[str, list[float]]) -> float:
            return paired_ratio(times["a"], times["b"]).width

        times = interleave({"a": noisy, "b": noisy}, budget, watched, seed=repeat)
        interval = paired_ratio(times["a"], times["b"])
        hits += interval.low <= 1.0 <= interval.high
    assert hits / repeats >= 0.90


def arms(order: list[str]) -> dict[str, Callable[[int], StepTimer]]:
    def step(name: str, milliseconds: float) -> Callable[[int], StepTimer]:
        def one(number: int) -> StepTimer:
            order.append(f"{name}{number}")
            return Fixed(milliseconds + number)

        return one

    return {"a": step("a", 100), "b": step("b", 50)}


def test_rounds_hold_every_arm_once_in_changing_order() -> None:
    order: list[str] = []
    budget = Budget(min_rounds=20, max_rounds=20, seconds=60, width=0.0, warmup_rounds=3)
    times = interleave(arms(order), budget, lambda _: 1.0)
    # Warm-up rounds ran and were dropped.
    assert len(order) == 2 * 23
    assert times["a"] == [100.0 + number for number in range(3, 23)]
    assert times["b"] == [50.0 + number for number in range(3, 23)]
    first = [order[index][0] for index in range(0, len(order), 2)]
    assert {"a", "b"} == set(first)
    assert order == list(dict.fromkeys(order))


def test_stops_when_the_interval_is_narrow_or_the_time_is_up() -> None:
    budget = Budget(min_rounds=4, max_rounds=100, seconds=60, width=0.05, warmup_rounds=0)
    widths = iter([0.5, 0.5, 0.04])
    # Looks after 4, 6 and 9 rounds.
    assert len(interleave(arms([]), budget, lambda _: next(widths))["a"]) == 9
    hurried = Budget(min_rounds=4, max_rounds=100, seconds=0.0, width=0.0, warmup_rounds=0)
    assert len(interleave(arms([]), hurried, lambda _: 1.0)["a"]) == 4


def test_an_arm_that_fails_leaves_collection_on() -> None:
    import gc

    def fail(_: int) -> StepTimer:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        interleave({"a": fail}, Budget(1, 1, 1, 1), lambda _: 1.0)
    assert gc.isenabled()
