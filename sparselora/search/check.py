"""Check a search before it opens its study."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from sparselora.config.groups import Timing
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.search import compat
from sparselora.search.space.effective import Check
from sparselora.search.space.samplers import check_sampler
from sparselora.search.space.space import Space
from sparselora.search.study.outcome import get_objectives
from sparselora.sparse.validate import check_at_least


def check_search(
    settings: Mapping[str, Any], launcher: str, arguments: Sequence[str], check: Check
) -> list[list[str]]:
    """Check all that can be known without the study.

    Args:
        settings: the fields of `SearchConfig`.
        launcher: `_target_` of Hydra's launcher.
        arguments: the command's overrides, Hydra's own left out.
        check: see `Check`.

    Returns:
        Overrides of settings that the search may run.

    Raises:
        UserError: a setting that is wrong, or without effect wherever it is drawn.
    """
    if OmegaConf.is_missing(settings, "study_name") or not settings["study_name"]:
        raise UserError("hydra.sweeper.study_name: a name is needed; sweep files give one")
    for key, least in (
        ("n_trials", 1),
        ("n_jobs", 1),
        ("max_duplicates", 1),
        ("max_drop", 0),
        ("max_interruptions", 0),
    ):
        check_at_least(f"hydra.sweeper.{key}", settings[key], least)
    for key in ("min_accuracy", "max_failure_rate"):
        value = settings[key]
        if value is not None and not 0.0 <= value <= 1.0:
            raise UserError(f"hydra.sweeper.{key}={value}: from 0 to 1 is allowed")
    if settings["n_jobs"] > 1 and launcher.endswith(f".{compat.BASIC_LAUNCHER}"):
        raise UserError(
            f"hydra.sweeper.n_jobs={settings['n_jobs']}: without effect, since Hydra's basic launcher "
            "runs one job at a time; add hydra/launcher=parallel, or leave it out"
        )
    if settings["n_jobs"] == 1 and launcher.endswith(f".{compat.JOBLIB_LAUNCHER}"):
        raise UserError(
            "hydra/launcher=parallel: without effect with hydra.sweeper.n_jobs=1; raise that to the "
            "number of jobs at once"
        )
    if settings["follow_up"] and not {"dense", "optimized"} <= set(settings["named"]):
        raise UserError("hydra.sweeper.follow_up=true: needs dense and optimized among the named")
    space = Space.parse(settings["params"] or {}, arguments)
    found = space.check(settings["named"], check)
    if settings["max_drop"] is not None and "dense" not in settings["named"]:
        raise UserError(
            f"hydra.sweeper.max_drop={settings['max_drop']}: is below the study's dense setting, "
            "which hydra.sweeper.named leaves out; add dense, or use hydra.sweeper.min_accuracy"
        )
    check_sampler(settings, space, check)
    run, _ = check(found[0])
    _check_timing(settings["objectives"], run)
    return found


def _check_timing(names: Sequence[str], run: RunConfig) -> None:
    for name, objective in zip(names, get_objectives(names), strict=True):
        if objective.timed and run.measure.timing is Timing.none:
            raise UserError(
                f"measure.timing=none: the search's objective {name} is measured; use "
                "measure.timing=after, or hydra.sweeper.objectives=[accuracy,gflops_per_step]"
            )
