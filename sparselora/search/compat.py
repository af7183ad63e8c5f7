"""Hold the private names of Hydra and of its Optuna plugin that this package uses, in one place.

They may move with any release. `PRIVATE_NAMES` lists them for `tests/search/test_compat.py`, which fails
with the library, its version and the name where one has gone. What Hydra's pages or its example plugins
use counts as public: `hydra.core`, `hydra.plugins`, `hydra.types`, `hydra.errors`, `hydra.utils`.

Each is imported where it is called: so that this module is light, and imports whatever has moved.
"""

from argparse import ArgumentParser, _VersionAction
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

PRIVATE_NAMES = {
    "hydra-core": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper.split_arguments",
        "hydra._internal.hydra.Hydra.create_main_hydra2",
        "hydra._internal.utils._get_rerun_overrides",
        "hydra._internal.utils.create_config_search_path",
        "hydra._internal.utils.get_args_parser",
        "hydra.core.utils.JobReturn._return_value",
        "hydra.initialize.get_gh_backup",
        "hydra.initialize.restore_gh_from_backup",
    ),
    "hydra-joblib-launcher": (
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    ),
    "hydra-optuna-sweeper": (
        "hydra_plugins.hydra_optuna_sweeper._impl.OptunaSweeperImpl._to_grid_sampler_choices",
        "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler",
        "hydra_plugins.hydra_optuna_sweeper._impl.create_params_from_overrides",
    ),
}
"""Package → names of it that it does not promise to keep."""

BASIC_LAUNCHER, JOBLIB_LAUNCHER = "BasicLauncher", "JoblibLauncher"
"""Classes of the launchers whose jobs run on this machine."""
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""`_target_` of the sweeper of a plain grid."""
NSGAII_SAMPLER = "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler"
"""`_target_` of the option `nsgaii` of the group `hydra/sweeper/sampler`."""


def command_line_parser(version: str) -> ArgumentParser:
    """Make the parser of Hydra's own flags, whose `--version` prints a version of ours."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    for action in parser._actions:
        if isinstance(action, _VersionAction):
            action.version = version
    return parser


def rerun_overrides(folder: str) -> tuple[str | None, list[str]]:
    """Return the name of the config, and the overrides, that Hydra wrote into a run's folder."""
    from hydra._internal.utils import _get_rerun_overrides

    return _get_rerun_overrides(folder)


def config_search_path(main: str) -> ConfigSearchPath:
    """Return where Hydra looks for config files: in its own, those of plugins, and a main folder."""
    from hydra._internal.utils import create_config_search_path

    return create_config_search_path(main)


@contextmanager
def composing_from(search_path: ConfigSearchPath) -> Iterator[None]:
    """Let `hydra.compose` find its files on a search path, and leave Hydra's state as it was."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    backup = get_gh_backup()
    GlobalHydra.instance().clear()  # a caller may stand in an application of its own
    try:
        Hydra.create_main_hydra2("app", search_path)
        yield
    finally:
        restore_gh_from_backup(backup)


def grid_batches(overrides: list[Override]) -> list[list[list[str]]]:
    """Return the batches of jobs of Hydra's plain grid, each job as its overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper.split_arguments(overrides, None)


def raised_by(job: JobReturn) -> BaseException | None:
    """Return the exception that ended a job, if any, without the lines that Hydra prints beside it."""
    value = job._return_value
    return value if isinstance(value, BaseException) else None


def distributions_of(
    lines: Sequence[str],
) -> tuple[dict[str, "BaseDistribution"], dict[str, Any], list[str]]:
    """Return what Optuna may draw for each swept key, the values of other keys, and deletions.

    Args:
        lines: overrides, in Hydra's own grammar.
    """
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    return create_params_from_overrides(list(lines))


def grid_choices(distribution: "BaseDistribution") -> Any:
    """Return all values of a distribution; raise a `ValueError` where it is a range without steps."""
    from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

    return OptunaSweeperImpl._to_grid_sampler_choices(distribution)
