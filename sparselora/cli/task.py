"""Ask Hydra's job where its user stands, and which config files it took."""

import functools
import os
from collections.abc import Callable
from contextlib import chdir, nullcontext
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora.errors import UserError
from sparselora.paths import CONF
from sparselora.plugins import load_plugins

Result = TypeVar("Result")


def from_where_the_user_stands(
    task: Callable[[DictConfig], Result],
) -> Callable[[DictConfig], Result]:
    """Run a task in the folder that the command was typed in.

    With `hydra.job.chdir=true` Hydra goes into the output folder first, and paths on the command line
    would mean other files there. What a run writes is named by whole paths.
    """

    @functools.wraps(task)
    def standing(config: DictConfig) -> Result:
        load_plugins()  # a launcher's workers have run no command
        job = HydraConfig.get()
        with chdir(job.runtime.cwd) if job.job.chdir else nullcontext():
            return task(config)

    return standing


def config_flags(job: Any) -> list[str]:
    """Return the flags that brought config files of the user's own, as a command takes them.

    Args:
        job: Hydra's own part of a job's config.
    """
    flags = []
    searched = []
    for source in job.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
        elif source.provider == "hydra.searchpath in command-line":
            searched.append(f"{source.schema}://{source.path}")
        elif source.provider == "main" and source.path != os.fspath(CONF):
            scheme = "" if source.schema == "file" else f"{source.schema}://"
            flags += ["--config-path", f"{scheme}{source.path}"]
    if job.job.config_name not in (None, "config"):
        flags += ["--config-name", str(job.job.config_name)]
    if searched:
        flags.append(f"hydra.searchpath=[{','.join(searched)}]")
    return flags


def check_alone() -> None:
    """Raise a `UserError` where a launcher started several processes of one command."""
    # Torchrun and accelerate set the first, mpirun the second.
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 1:
            raise UserError(
                f"{name}={value}: each of {value} processes would train the same run; a command trains "
                "in one process, so start it without torchrun, accelerate launch or mpirun"
            )
