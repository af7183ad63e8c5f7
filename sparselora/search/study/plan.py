"""What a search asks of its study."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Plan:
    """What a search asks of its study.

    Attributes:
        name: of the study.
        objectives: names of `OBJECTIVES`.
        n_trials: finished ones in all.
        named: experiments that come first.
        seed: of the sampler.
        make_sampler: seed → sampler.
        min_accuracy: see `SearchConfig`.
        max_drop: see `SearchConfig`.
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
