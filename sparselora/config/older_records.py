"""Fill in the keys of a config that came after it was written: what an older run did is their default."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import MISSING

from sparselora.config.groups import TASKS
from sparselora.config.schema import RunConfig


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's `config` with the schema's default, where there is one, of each key it lacks."""
    return _filled(config, _defaults())


@cache
def _defaults() -> dict[str, Any]:
    defaults = RunConfig().to_dict()
    defaults["task"]["name"] = TASKS[0]  # there was no other before there was a choice
    return defaults


def _filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(config)
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(whole.get(key, {}), dict):
            whole[key] = _filled(whole.get(key, {}), default)
        elif key not in whole and default != MISSING:
            whole[key] = default
    return whole
