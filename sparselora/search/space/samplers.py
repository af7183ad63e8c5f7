"""Make samplers by the name of their Hydra option, and tell which of them fit a space."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.samplers import BaseSampler

from sparselora.errors import UserError
from sparselora.search import compat
from sparselora.search.space.effective import Check
from sparselora.search.space.space import Space

WHITELIST = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")

FLAT_ONLY = {
    "optuna.samplers.GridSampler": "grid",
    "optuna.samplers.GPSampler": "gp",
    compat.NSGAII_SAMPLER: "nsgaii",
}
"""These model just the parameters that all finished trials share."""
ANY_SPACE = {"optuna.samplers.TPESampler": "tpe", "optuna.samplers.RandomSampler": "random"}
MODELS_ALL = ("gp", "nsgaii")
"""These see nothing beside a trial that has none of their parameters, as named ones have not."""


def samplers_taken(settings: Mapping[str, Any], space: Space, check: Check) -> list[str]:
    """Return the names of the samplers that fit the space of a search."""
    flat = space.conditional(check) is None
    models = [
        name
        for name in FLAT_ONLY.values()
        if flat and not (name in MODELS_ALL and settings["named"])
    ]
    return [*ANY_SPACE.values(), *models]


def check_sampler(settings: Mapping[str, Any], space: Space, check: Check) -> None:
    """Raise a `UserError` where the sampler does not fit the space."""
    sampler = settings["sampler"]
    target = sampler.get("_target_")
    if target in ANY_SPACE:
        _check_seed(sampler)
        return
    name = FLAT_ONLY.get(target)
    if name is None:
        allowed = ", ".join(samplers_taken(settings, space, check))
        raise UserError(f"hydra/sweeper/sampler: {target} is not for this search; {allowed} are")
    _check_seed(sampler)
    key = space.conditional(check)
    if key is not None:
        raise UserError(
            f"hydra/sweeper/sampler={name}: it models just the parameters that all trials share, and "
            f"{key} has no effect in some of them; tpe or random is allowed"
        )
    if name in MODELS_ALL and settings["named"]:
        raise UserError(
            f"hydra/sweeper/sampler={name}: it models just the parameters that all trials share, and "
            "named settings have none of them; add hydra.sweeper.named=[], or use tpe or random"
        )


def sampler_factory(
    sampler: DictConfig, space: Space, seed: int = 0
) -> tuple[Callable[[int], BaseSampler], int]:
    """Return a function that makes a sampler from a seed, and how many settings it can draw.

    That number is a large one, but for a grid.
    A grid is walked in one order, which `seed` decides: its points are numbered in that order.

    Raises:
        UserError: a grid over a range that has no steps.
    """

    def make(one: int) -> Any:
        return instantiate(sampler, seed=one, _execution_whitelist_=WHITELIST)

    first = make(0)
    if not isinstance(first, functools.partial):
        return make, 10**9
    try:
        grid = {key: compat.grid_choices(item) for key, item in space.distributions.items()}
    except ValueError as error:
        raise UserError(
            "hydra/sweeper/sampler=grid: needs choices or ranges with steps for every key"
        ) from error
    size = 1
    for values in grid.values():
        size *= len(values)
    return lambda _: optuna.samplers.GridSampler(grid, seed=seed), size


def _check_seed(sampler: Mapping[str, Any]) -> None:
    if sampler.get("seed") is not None:
        raise UserError(
            f"hydra.sweeper.sampler.seed={sampler['seed']}: without effect, since each draw's seed "
            "follows from hydra.sweeper.seed; set that one"
        )
