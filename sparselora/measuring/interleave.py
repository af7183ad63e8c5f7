"""Time every arm in each round, in an order drawn anew, until an interval is narrow."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import bootstrap

from sparselora.machine.timer import StepTimer


@dataclass(frozen=True)
class Interval:
    """Hold a median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Return high − low, relative to the median."""
        return (self.high - self.low) / self.median


def paired_ratio(numerator: ArrayLike, denominator: ArrayLike, seed: int = 0) -> Interval:
    """Return the median over rounds of numerator / denominator, with a bootstrap interval.

    A round's two times stand next to each other in time, on one batch, so that drift of the machine
    cancels in their ratio; whole rounds are resampled, which keeps each pair together.

    Args:
        numerator: ms of one arm, a value a round; at least two rounds.
        denominator: ms of the other, in the same rounds.
        seed: of the resampling.
    """
    ratios = np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float)
    result = bootstrap(
        (ratios,),
        np.median,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(np.median(ratios)), float(result.low), float(result.high))


@dataclass(frozen=True)
class Budget:
    """Say how long interleaved timing goes on."""

    min_rounds: int
    """The first look at the interval comes after these; each next one after half as many again."""
    max_rounds: int
    seconds: float
    """No round begins after this much time, once there are `min_rounds`."""
    width: float
    """Relative width of the interval at which it stops."""
    warmup_rounds: int = 2
    """Dropped: caches, allocators and clocks settle."""


def interleave(
    arms: Mapping[str, Callable[[int], StepTimer]],
    budget: Budget,
    watched: Callable[[Mapping[str, list[float]]], float],
    seed: int = 0,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time all arms in each round, in an order drawn anew.

    Args:
        arms: name → a function that does one step of round n and gives its timer.
        budget: when to stop.
        watched: relative width of the interval that matters, from the times so far.
        seed: of the order.
        on_round: called with the number of each round that counts, from 1.

    Returns:
        Milliseconds by arm, a value a round.
    """
    order = random.Random(seed)
    names = list(arms)
    times: dict[str, list[float]] = {name: [] for name in names}
    began = 0.0
    # Each look is a chance to stop on luck, and costs coverage: so they are few.
    next_look = budget.min_rounds
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of one arm's step would be charged to it
    try:
        for number in range(-budget.warmup_rounds, budget.max_rounds):
            if number == 0:
                began = time.perf_counter()
            order.shuffle(names)
            for name in names:
                milliseconds = arms[name](number + budget.warmup_rounds).milliseconds()
                if number >= 0:
                    times[name].append(milliseconds)
            gc.collect(0)
            done = number + 1
            if number >= 0:
                on_round(done)
            if done >= budget.min_rounds:
                if time.perf_counter() - began > budget.seconds:
                    break
                if done >= next_look:
                    if watched(times) <= budget.width:
                        break
                    next_look = done + (done + 1) // 2
    finally:
        if collecting:
            gc.enable()
    return times
