"""Guard what all trials of a study share: another task, floor or device is another study."""

from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import check_distribution_compatibility

from sparselora.config.identity import TABLE, Decides, flattened, outcome_settings
from sparselora.config.older_records import filled
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.search.space.space import Space
from sparselora.search.study.attributes import BASE, DEVICE, FLOOR
from sparselora.search.study.study import SharedStudy


def check_study(
    study: SharedStudy,
    space: Space,
    base: RunConfig,
    settings: Mapping[str, Any],
    device: str | None,
) -> None:
    """Leave in a new study what its trials share, and refuse another search in a known one.

    To be called under the storage's lock.

    Args:
        study: before anything in it is changed.
        space: that trials are to be drawn from.
        base: the run without what a search draws.
        settings: the fields of `SearchConfig`.
        device: that trials will run on; None where only they can tell.

    Raises:
        UserError: names the first that is another.
    """
    _check_choices(study, space)
    values = outcome_settings(base.to_dict())
    floor = {f"hydra.sweeper.{key}": settings[key] for key in ("min_accuracy", "max_drop")}
    for name, now in ((BASE, values), (FLOOR, floor)):
        study.guard(name, now, _first_change(study, now))
    bound = study.bound_objectives()
    if bound and device is not None:
        study.guard(
            DEVICE,
            device,
            lambda there: (
                f"this is {device}, and the study {study.plan.name!r} was begun on {there}, whose "
                f"{bound[0]} is another figure; use hydra.sweeper.objectives=[accuracy,speedup]"
                f"{_ANOTHER}"
            ),
        )


_ANOTHER = "; give another hydra.sweeper.study_name"


def _check_choices(study: SharedStudy, space: Space) -> None:
    for trial in study.trials:
        for key in space.distributions.keys() & trial.distributions.keys():
            try:
                check_distribution_compatibility(trial.distributions[key], space.distributions[key])
            except ValueError as error:
                raise UserError(
                    f"hydra.sweeper.params.{key}: the study {study.plan.name!r} knows it with other "
                    f"values{_ANOTHER}"
                ) from error


def _first_change(study: SharedStudy, now: Mapping[str, Any]) -> Callable[[Any], str]:
    def message(there: Mapping[str, Any]) -> str:
        # A key that came after the study was begun had its default there; one that it draws has none.
        drawn = {key for trial in study.trials for key in trial.distributions}
        later = flattened(filled({}))
        begun = {key: later[key] for key in now if key in later and key not in drawn} | dict(there)
        for key in sorted({*begun, *now}):
            if TABLE.get(key) != Decides.NOTHING and begun.get(key) != now.get(key):
                was = f"the study {study.plan.name!r} was begun with {_shown(begun.get(key))}"
                return f"{key}={_shown(now.get(key))}: {was}{_ANOTHER}"
        return ""

    return message


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
