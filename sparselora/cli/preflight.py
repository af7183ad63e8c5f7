"""Check every job of a command before the first one starts, so that a mistake trains nothing."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparselora.cli.command_line import check_mode, check_options, check_sweep, parse_overrides
from sparselora.cli.config_folders import config_folders, rerun
from sparselora.cli.hydra_setup import install
from sparselora.config.groups import DataConfig
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.records.record import BENCH_NAME, RECORD_NAME
from sparselora.runs.checks import check_shape, load_run_data, parse_job, user_keys
from sparselora.search import compat
from sparselora.search.config import TARGET as SEARCH
from sparselora.search.config import SearchConfig

if TYPE_CHECKING:
    from sparselora.search.space.effective import Check

_SAMPLER = "hydra/sweeper/sampler"


def preflight(arguments: Namespace, unused: tuple[str, ...] = ()) -> None:
    """Compose and check what a parsed command line would run; one that only shows something is not.

    Raises:
        UserError: a setting is wrong, or the output folder cannot be made.
    """
    shows = (arguments.help, arguments.hydra_help, arguments.cfg, arguments.shell_completion)
    if any(shows) or arguments.info:
        return
    install()
    name, overrides = arguments.config_name or "config", list(arguments.overrides)
    if arguments.experimental_rerun is not None:
        name, saved = rerun(arguments.experimental_rerun)
        overrides = [*saved, *overrides]
    with config_folders(arguments.config_path, arguments.config_dir):
        jobs = _jobs(name, overrides, arguments.multirun)
    for overrides, _ in jobs:
        check_unused(overrides, unused)
    checked: list[tuple[DataConfig, bool]] = []
    for _, run in jobs:
        asked = (run.data, run.measure.test)
        if run.bench.seq_len is None and asked not in checked:
            for note in load_run_data(run).notes:
                print(f"note: {note}", file=sys.stderr)
            checked.append(asked)
    # Sizes of the model come last: they take transformers, and may take a download.
    for overrides, run in jobs:
        check_shape(run, user_keys(overrides))


def _jobs(name: str, overrides: list[str], multirun: bool) -> list[tuple[list[str], RunConfig]]:
    """Return the overrides of each job, and its checked config."""
    # With the loader, a parser knows `glob(*)`.
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = parse_overrides(overrides, parser)
    modes = [str(item.value()) for item in parsed if item.key_or_group == "hydra.mode"]
    multirun = multirun or modes[-1:] == ["MULTIRUN"]
    check_mode(parsed, multirun)
    check_options(parsed)
    fixed = [str(item.input_line) for item in parsed if not item.is_sweep_override()]
    tasks = _tasks(overrides)
    try:
        base = compose_config(name, fixed if multirun else overrides)
    except HydraException as error:
        _check_sampler_is_there(name, fixed, tasks, error)
        raise
    for place in OmegaConf.select(base, "hydra.searchpath") or []:
        folder = str(place).removeprefix("file://")
        if "://" not in folder and not Path(folder).is_dir():
            raise UserError(f"hydra.searchpath={place}: no such folder")
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    folder = str(OmegaConf.select(base, key))
    if not folder:
        raise UserError(f"{key}=: a folder is needed")
    # A search goes on in its folder: each trial has one of its own there.
    goes_on = multirun and base.hydra.sweeper._target_ == SEARCH
    make_output_folder(key, Path(folder), "**/" if multirun else "", goes_on)
    if not multirun:
        check_sweep(parsed)
        return [(tasks, parse_job(base, tasks))]
    sweeper = base.hydra.sweeper
    hydra_lines = [item for item in fixed if _hydra(item)]
    if sweeper._target_ == SEARCH:
        for key in sorted(set(map(str, sweeper)) - {field.name for field in fields(SearchConfig)}):
            raise UserError(f"hydra.sweeper.{key}: unknown key; a search has none of that name")
        return _search_jobs(name, sweeper, base.hydra.launcher._target_, tasks, hydra_lines)
    if sweeper._target_ != compat.BASIC_SWEEPER:
        # What it runs is the sweeper's to say, and each run checks itself.
        direction = OmegaConf.select(sweeper, "direction")
        if "direction" in sweeper and not (OmegaConf.is_list(direction) and len(direction) == 2):
            raise UserError(
                f"hydra.sweeper.direction={getattr(direction, 'name', direction)}: a run gives two "
                "values, so [maximize,minimize] (accuracy, ms/step) is allowed"
            )
        unswept = _tasks(fixed)
        return [(unswept, parse_job(base, unswept))]
    for key in map(str, sweeper):
        if key not in ("_target_", "max_batch_size", "params"):
            raise UserError(f"hydra.sweeper.{key}: a grid has none; add hydra/sweeper=search")
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    batches = compat.grid_batches(parser.parse_overrides([*params, *tasks]))
    if not any(batches):
        given = [str(item.input_line) for item in parsed if item.is_sweep_override()]
        raise UserError(f"{' '.join(given)}: matches nothing, so no run is left")
    subdir = str(OmegaConf.to_container(base.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index, call-overload]
    if "${" not in subdir and sum(map(len, batches)) > 1:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: one folder for all runs of the grid; one of its own for each, "
            "such as ${hydra.job.num}, is needed"
        )
    return [
        (job, parse_job(compose_config(name, [*hydra_lines, *job]), job))
        for batch in batches
        for job in batch
    ]


def _search_jobs(
    name: str, sweeper: DictConfig, launcher: str, tasks: list[str], hydra_lines: list[str]
) -> list[tuple[list[str], RunConfig]]:
    from sparselora.search.check import check_search

    check = _search_check(name, hydra_lines)
    return [(job, check(job)[0]) for job in check_search(sweeper, launcher, tasks, check)]


def _search_check(name: str, hydra_lines: list[str]) -> "Check":
    from sparselora.search.space.effective import remembered

    @remembered
    def check(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
        run = parse_job(compose_config(name, [*hydra_lines, *overrides]), overrides)
        return run, check_shape(run, user_keys(overrides))

    return check


def _check_sampler_is_there(
    name: str, fixed: list[str], tasks: list[str], error: HydraException
) -> None:
    """Raise a `UserError` for an unknown sampler of a search, of which Hydra would list all it has."""
    asked = [item for item in fixed if item.startswith(f"{_SAMPLER}=")]
    if not asked or f"'{_SAMPLER}/" not in str(error):
        return
    rest = [item for item in fixed if item not in asked]
    sweeper = compose_config(name, rest).hydra.sweeper
    if sweeper._target_ == SEARCH:
        from sparselora.search.space.samplers import samplers_taken
        from sparselora.search.space.space import Space

        space = Space.parse(sweeper.params or {}, tasks)
        check = _search_check(name, [item for item in rest if _hydra(item)])
        allowed = ", ".join(samplers_taken(sweeper, space, check))
        raise UserError(f"{asked[-1]}: unknown; must be one of {allowed}") from error


def _tasks(overrides: Sequence[str]) -> list[str]:
    return [item for item in overrides if not _hydra(item)]


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose a config, Hydra's part among it; whatever Hydra refuses is an error of its own or ours."""
    try:
        return compose(name, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        raise
    except yaml.YAMLError as error:
        raise UserError(f"a config file is no YAML: {' '.join(str(error).split())}") from error
    except (ValueError, TypeError, OSError) as error:  # Hydra's own checks, some of them
        raise UserError(str(error).strip().splitlines()[0]) from error


def _hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def check_unused(overrides: Sequence[str], unused: tuple[str, ...]) -> None:
    """Raise a `UserError` where overrides set a key that a command does not look at.

    Args:
        overrides: of one job.
        unused: beginnings of such keys.
    """
    for key in user_keys(overrides):
        if unused and key.startswith(unused):
            raise UserError(f"{key}: without effect in this command; leave it out")


def make_output_folder(key: str, folder: Path, below: str = "", goes_on: bool = False) -> None:
    """Make the folder that an output folder lies in.

    Args:
        key: what the folder was given as, for messages.
        folder: for new results.
        below: a pattern of the folders below it that results may lie in, such as `**/`.
        goes_on: whether the folder may hold results already.

    Raises:
        UserError: it is a file, holds results already, or cannot be made.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{key}={folder}: is a file; a folder is allowed")
        names = (RECORD_NAME, BENCH_NAME)
        if not goes_on and any(any(folder.glob(f"{below}{name}")) for name in names):
            raise UserError(f"{key}={folder}: holds results already; give another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{key}={folder}: cannot be made ({error.strerror or error}); "
            "a folder that can be written is allowed"
        ) from error
