"""Checks every job of a command before the first one starts, so that a mistake trains nothing."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparselora.checks import check_shape, load_run_data, parse_job, user_keys
from sparselora.errors import UserError
from sparselora.hydra_setup import install
from sparselora.paths import CONF
from sparselora.record import BENCH_NAME, RECORD_NAME
from sparselora.schema import DataConfig, RunConfig
from sparselora.search.config import TARGET as SEARCH

_BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


def preflight(arguments: Namespace, unused: tuple[str, ...] = ()) -> None:
    """Compose and check what a parsed command line would run.

    Commands that only show something, and those that bring a config folder of their own, are left
    to Hydra and to the check that each run makes itself.

    Raises:
        UserError: a setting is wrong, or the output folder cannot be made.
    """
    shows = (arguments.help, arguments.hydra_help, arguments.cfg, arguments.shell_completion)
    own = (arguments.config_path, arguments.config_name, arguments.config_dir)
    if any(shows) or arguments.info or any(own) or arguments.experimental_rerun:
        return
    install()
    with initialize_config_dir(str(CONF)):
        jobs = _jobs(arguments.overrides, arguments.multirun)
    for overrides, _ in jobs:
        for key in user_keys(overrides):
            if unused and key.startswith(unused):
                raise UserError(f"{key}: without effect in this command; leave it out")
    checked: list[tuple[DataConfig, bool]] = []
    for _, run in jobs:
        asked = (run.data, run.measure.test)
        if run.bench.seq_len is None and asked not in checked:
            load_run_data(run)
            checked.append(asked)
    # Sizes of the model come last: they take transformers, and may take a download.
    for overrides, run in jobs:
        check_shape(run, user_keys(overrides))


def _jobs(overrides: list[str], multirun: bool) -> list[tuple[list[str], RunConfig]]:
    """The overrides of each job, and its checked config."""
    # With the loader, a parser knows `glob(*)`.
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    multirun = multirun or "hydra.mode=MULTIRUN" in overrides
    parsed = parser.parse_overrides(overrides)
    fixed = [str(item.input_line) for item in parsed if not item.is_sweep_override()]
    base = _compose(fixed if multirun else overrides)
    _make_output_folder(base, multirun)
    tasks = _tasks(overrides)
    if not multirun:
        return [(tasks, parse_job(base, tasks))]
    sweeper = base.hydra.sweeper
    hydra_lines = [item for item in fixed if _hydra(item)]
    if sweeper._target_ == SEARCH:
        return _search_jobs(sweeper, base.hydra.launcher._target_, tasks, hydra_lines)
    if sweeper._target_ != _BASIC_SWEEPER:
        # What it runs is the sweeper's to say, and each run checks itself.
        direction = OmegaConf.select(sweeper, "direction")
        if "direction" in sweeper and not (OmegaConf.is_list(direction) and len(direction) == 2):
            raise UserError(
                f"hydra.sweeper.direction={getattr(direction, 'name', direction)}: a run gives two "
                "values, so [maximize,minimize] (accuracy, ms/step) is allowed"
            )
        unswept = _tasks(fixed)
        return [(unswept, parse_job(base, unswept))]
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*params, *tasks]), None)
    return [
        (job, parse_job(_compose([*hydra_lines, *job]), job)) for batch in batches for job in batch
    ]


def _search_jobs(
    sweeper: DictConfig, launcher: str, tasks: list[str], hydra_lines: list[str]
) -> list[tuple[list[str], RunConfig]]:
    from sparselora.search.check import check_search
    from sparselora.search.space import remembered

    @remembered
    def check(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
        run = parse_job(_compose([*hydra_lines, *overrides]), overrides)
        return run, check_shape(run, user_keys(overrides))

    return [(job, check(job)[0]) for job in check_search(sweeper, launcher, tasks, check)]


def _tasks(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not _hydra(item)]


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose("config", list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        raise
    except (ValueError, TypeError, OSError) as error:  # Hydra's own checks, some of them
        raise UserError(str(error).strip().splitlines()[0]) from error


def _hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _make_output_folder(base: DictConfig, multirun: bool) -> None:
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    name = str(OmegaConf.select(base, key))
    folder = Path(name)
    if not name:
        raise UserError(f"{key}=: a folder is needed")
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{key}={folder}: is a file; a folder is allowed")
        below = "**/" if multirun else ""
        # A search goes on in its folder: each trial has one of its own there.
        goes_on = multirun and base.hydra.sweeper._target_ == SEARCH
        if not goes_on and any(
            any(folder.glob(f"{below}{name}")) for name in (RECORD_NAME, BENCH_NAME)
        ):
            raise UserError(f"{key}={folder}: holds results already; give another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{key}={folder}: cannot be made ({error.strerror or error}); "
            "a folder that can be written is allowed"
        ) from error


def parse_arguments(arguments: Sequence[str] | None = None) -> Any:
    """Hydra's own parser over a command line."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_intermixed_args(
        sys.argv[1:] if arguments is None else list(arguments)
    )
