"""Describe the settings of a search, as Hydra knows them: `hydra/sweeper=search`.

Light to import.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

NAMED = ("dense", "original", "optimized", "fallback")

TARGET = "sparselora.search.sweeper.SearchSweeper"


@dataclass
class SearchConfig:
    """Hold the keys of `hydra.sweeper`, with a sampler of the group `hydra/sweeper/sampler`."""

    _target_: str = TARGET
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    sampler: Any = MISSING
    """Made anew for each trial, seeded by `seed` and the trials so far."""
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "ms_per_step"])
    """Names of `sparselora.search.study.outcome.OBJECTIVES`."""
    storage: str | None = "sqlite:///outputs/study.db"
    """URL of an SQLite file, for one machine, or of PostgreSQL or MySQL; null: in memory, not kept."""
    study_name: str = MISSING
    n_trials: int = 16
    """Finished trials in all, the named and failed ones included, over restarts and processes."""
    n_jobs: int = 1
    """Trials that a launcher is given at once."""
    seed: int = 1
    named: list[str] = field(default_factory=lambda: list(NAMED))
    """Experiments that are the study's first trials, exactly as they are written."""
    min_accuracy: float | None = None
    """In [0, 1]; settings below it are infeasible to the sampler."""
    max_drop: float | None = None
    """The same, in points below the study's `dense` trial."""
    follow_up: bool = False
    """Whether the original study's plan says what comes after the named settings, beyond `n_trials`;
    see `sparselora.search.follow_up`."""
    max_duplicates: int = 20
    """Draws in a row of settings that the study has already, after which the search ends."""
    max_interruptions: int = 3
    """How often a trial is begun again whose process died, without Ctrl-C; then it has failed."""
    release_hosts: list[str] = field(default_factory=list)
    """Machines that will not come back: what their processes left is begun again."""
    max_failure_rate: float = 0.5
    """Share of the finished trials that may have failed, looked at from the fourth on."""
    params: dict[str, Any] = field(default_factory=dict)
    """Key → sweep, in Hydra's own grammar: `a,b`, `range(0.4,0.9,0.05)`, `interval(0,1)`."""


def register_search() -> None:
    """Make a search known to Hydra as `hydra/sweeper=search`."""
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name="search",
        node=SearchConfig,
        provider="sparselora",
        replace=True,
    )
