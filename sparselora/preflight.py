"""Checks every job of a command before the first one starts, so that a mistake trains nothing."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from sparselora.config import check_model, parse_config
from sparselora.data import check_path
from sparselora.errors import UserError
from sparselora.hydra_setup import install
from sparselora.paths import CONF
from sparselora.record import RECORD_NAME
from sparselora.schema import RunConfig

_BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


def user_keys(overrides: Sequence[str]) -> frozenset[str]:
    """The dotted keys and groups that overrides set."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return frozenset(override.key_or_group for override in parsed)


def preflight(arguments: Namespace) -> None:
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
    runs = [(overrides, parse_config(job, user_keys(overrides))) for overrides, job in jobs]
    for _, run in runs:
        check_path(run.data)
    # Sizes of the model come last: they take transformers, and may take a download.
    for overrides, run in runs:
        check_shape(run, user_keys(overrides))


def check_shape(run: RunConfig, keys: frozenset[str]) -> list[float]:
    """`check_model` against the config of the run's own model, and the device against the machine.

    Returns:
        The sparsity asked of each layer.
    """
    from sparselora.device import choose_device
    from sparselora.model import load_model_config
    from sparselora.sparse.blocks import get_model_shape

    choose_device(run.train.device)
    return check_model(run, get_model_shape(load_model_config(run.model)), keys)


def _jobs(overrides: list[str], multirun: bool) -> list[tuple[list[str], DictConfig]]:
    """The overrides of each job, and its merged config without Hydra's part."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    fixed = [item.input_line for item in parsed if not item.is_sweep_override()]
    base = _compose(fixed if multirun else overrides)
    multirun = multirun or OmegaConf.select(base, "hydra.mode.name") == "MULTIRUN"
    _make_output_folder(base, multirun)
    if not multirun:
        return [([item for item in overrides if not _hydra(item)], _without_hydra(base))]
    if base.hydra.sweeper._target_ != _BASIC_SWEEPER:
        return []  # the sweeper decides what runs; each run checks itself
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
    lines = [*params, *(item for item in overrides if not _hydra(item))]
    batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(lines), None)
    hydra_lines = [item for item in overrides if _hydra(item)]
    return [
        (job, _without_hydra(_compose([*hydra_lines, *job]))) for batch in batches for job in batch
    ]


def _compose(overrides: Sequence[str]) -> DictConfig:
    return compose("config", list(overrides), return_hydra_config=True)


def _hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def _without_hydra(config: DictConfig) -> DictConfig:
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return config


def _make_output_folder(base: DictConfig, multirun: bool) -> None:
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    folder = Path(str(OmegaConf.select(base, key)))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{key}={folder}: is a file; a folder is allowed")
    if not multirun and (folder / RECORD_NAME).exists():
        raise UserError(f"{key}={folder}: holds a run's record already; give another folder")
    try:
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
