"""Describe what a search asks of its study: objectives, budget, limits and seed."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Plan:
    """Hold what a search asks of its study.

    Attributes:
        name: of the study.
        objectives: names of `sparselora.search.study.outcome.OBJECTIVES`.
        n_trials: finished ones in all.
        named: experiments that come first.
        seed: of the sampler.
        make_sampler: makes a sampler from a seed.
        min_accuracy: see `sparselora.search.config.SearchConfig`.
        max_drop: likewise.
        max_interruptions: likewise.
        release_hosts: likewise.
    """

    name: str
    objectives: Sequence[str]
    n_trials: int
    named: Sequence[str]
    seed: int
    make_sampler: Callable[[int], BaseSampler]
    min_accuracy: float | None = None
    max_drop: float | None = None
    max_interruptions: int = 3
    release_hosts: Sequence[str] = ()

    def seed_at(self, place: str) -> int:
        """Return a seed of 32 bits for one place in the study, which the plan's own decides."""
        digest = hashlib.sha256(f"{self.seed}/{place}".encode()).digest()
        return int.from_bytes(digest[:4], "big")
