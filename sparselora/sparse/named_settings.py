"""Read the settings of `conf/` as fields of a `SparsityConfig`: one source for command and library.

What Hydra composes for a command is read here without Hydra: the file of the defaults, then one of each
group that shapes sparsity, then an experiment, whose `override /group: option` lines choose others. The
options of plugins stand behind those of `conf/`, as they do for Hydra.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sparselora.errors import UserError
from sparselora.paths import CONF
from sparselora.plugins import CONFIG_FOLDERS

UNSAID: Mapping[str, Any] = MappingProxyType(
    {
        "layer_sparsity": MappingProxyType({}),
        "layer_qk_sparsity": MappingProxyType({}),
        "layer_vo_sparsity": MappingProxyType({}),
        "svd_rank": None,
        "estimator_tokens": 128,
        "estimator_weighted": False,
        "estimator_every": 1,
        "compensation_rank": 8,
    }
)
"""What holds where no file of `conf/` says anything."""

_KEYS = {
    "rule": "schedule.rule",
    "estimator": "estimator.name",
    "estimator_tokens": "estimator.tokens",
    "estimator_weighted": "estimator.weighted",
    "estimator_every": "estimator.every",
    "compensation": "compensation.name",
    "compensation_rank": "compensation.rank",
}
"""Fields that stand under another key in a command."""
_CHOOSE = {"schedule": "rule", "estimator": "estimator", "compensation": "compensation"}
"""Groups that shape sparsity → the field that says which option is meant."""
_MISSING = object()


def names() -> tuple[str, ...]:
    """Return what `experiment=` takes: the files of `conf/experiment`."""
    return tuple(sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))


def settings(
    experiment: str | None, given: Mapping[str, Any], fields: tuple[str, ...]
) -> dict[str, Any]:
    """Return the value of each of `fields` in a command that says `experiment` and what is `given`.

    A `rule`, `estimator` or `compensation` that is given chooses the option of that name, as
    `schedule=`, `estimator=` and `compensation=` do, with all that its file says.

    Raises:
        UserError: there is no such experiment.
    """
    if experiment is not None and experiment not in names():
        raise UserError(
            f"SparsityConfig.named({experiment!r}): must be one of {', '.join(names())}"
        )
    chosen = tuple((group, given.get(field)) for group, field in _CHOOSE.items())
    folders = (CONF, *CONFIG_FOLDERS)
    named = tuple(pair for pair in chosen if isinstance(pair[1], str))
    merged = _composed(folders, experiment, named)
    values = {}
    for field in fields:
        value = OmegaConf.select(merged, _KEYS.get(field, field), default=_MISSING)
        value = UNSAID[field] if value is _MISSING else value
        values[field] = dict(value) if isinstance(value, Mapping | DictConfig) else value
    return values


@functools.cache
def _composed(
    folders: tuple[Path, ...], experiment: str | None, chosen: tuple[tuple[str, str], ...]
) -> DictConfig:
    base = _read(CONF / "config.yaml")
    options = {
        group: option
        for entry in base.pop("defaults")
        if isinstance(entry, DictConfig)
        for group, option in entry.items()
    }
    own: Any = {}
    if experiment is not None:
        own = _read(CONF / "experiment" / f"{experiment}.yaml")
        for entry in own.pop("defaults", []):
            ((key, option),) = entry.items()
            options[str(key).removeprefix("override /")] = option
    for group, name in chosen:
        if _file(folders, group, name) is not None:
            options[group] = name
        elif group == "estimator":
            del options[group]  # one without a file: what the default's says is not meant for it
        # `explicit` is the rule of several schedules, so it chooses none of them.
    parts = [_option(folders, group, options[group]) for group in _CHOOSE if group in options]
    merged = OmegaConf.merge(base, *parts, own)
    for group, name in chosen:
        OmegaConf.update(merged, _KEYS[_CHOOSE[group]], name)
    assert isinstance(merged, DictConfig)
    return merged


def _option(folders: tuple[Path, ...], group: str, name: str) -> Any:
    path = _file(folders, group, name)
    assert path is not None  # it is chosen where it was found, or by a file of `conf/`
    content = _read(path)
    at_the_root = re.search(
        r"^# @package _global_$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return content if at_the_root else {group: content}


def _file(folders: tuple[Path, ...], group: str, name: str) -> Path | None:
    paths = (folder / group / f"{name}.yaml" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> Any:
    return OmegaConf.load(path)
