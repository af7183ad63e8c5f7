"""Load packages that add to this one: estimators, architectures, data sets, and config files for them.

A package names a module in the entry-point group `sparselora`; importing that module registers what it
brings. The commands import all of them before they read a config, so nothing else has to be typed.
"""

import logging
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from sparselora.errors import UserError, in_one_line

GROUP = "sparselora"
"""The entry-point group, in the `pyproject.toml` of a package that adds to this one."""
CONFIG_FOLDERS: list[Path] = []
"""Folders that Hydra composes from beside `conf/`, in the order in which they were registered."""


def register_configs(folder: str | Path) -> None:
    """Let Hydra find the options in a folder: one folder a group, one YAML file an option.

    Options of `conf/` go first: one of the same name is not replaced.

    Args:
        folder: such as `Path(__file__).parent / "conf"`, with `estimator/mine.yaml` in it.

    Raises:
        UserError: there is no such folder.
    """
    place = Path(folder).resolve()
    if not place.is_dir():
        raise UserError(f"register_configs: {place}: no such folder")
    if place not in CONFIG_FOLDERS:
        CONFIG_FOLDERS.append(place)


@cache
def load_plugins() -> tuple[str, ...]:
    """Import what installed packages name in the entry-point group; return their names.

    Done once in a process; later calls return the same names.

    Raises:
        UserError: a plugin cannot be imported, or what it registers is refused.
    """
    names = []
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises
            package = entry.dist.name if entry.dist is not None else "a package"
            raise UserError(
                f"plugin {entry.name} of {package} ({entry.value}): {in_one_line(error)}; mend it, or "
                f"uninstall {package}"
            ) from error
        logging.getLogger(__name__).debug("plugin %s: %s", entry.name, entry.value)
        names.append(entry.name)
    return tuple(names)
