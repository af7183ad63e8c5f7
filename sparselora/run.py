"""Run `python -m sparselora.run`: one fine-tune, or with `-m` one for each setting.

`task` is the Hydra task function: one config in, one record out, the objectives returned.
"""

import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora.cli.command import EXECUTION_WHITELIST, execute
from sparselora.cli.progress import Progress
from sparselora.cli.task import config_flags, from_where_the_user_stands
from sparselora.config.checks import parse_config
from sparselora.config.choices import check_choices
from sparselora.paths import CONF
from sparselora.runs.checks import check_shape, user_keys

if TYPE_CHECKING:
    from sparselora.records.record import RunRecord


@from_where_the_user_stands
def task(config: DictConfig) -> tuple[float, float]:
    """Do one fine-tune in Hydra's output folder, or with `seeds` one for each below it.

    Returns:
        See `sparselora.runs.job.objectives`; means over seeds.
    """
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    check_choices(run, job.runtime.choices, keys)
    sparsities = check_shape(run, keys)

    from sparselora.runs.job import Origin, objectives, run_job

    multirun = job.mode is not None and job.mode.name == "MULTIRUN"
    searches = job.runtime.choices.get("hydra/sweeper") == "search"  # which says it in a line
    records = run_job(
        run,
        sparsities,
        Path(job.runtime.output_dir),
        Origin(overrides, job.runtime.choices.get("experiment"), config_flags(job)),
        sweep=Path(job.sweep.dir) if multirun else None,
        watch=Progress,
        on_end=(lambda record: None) if searches else _print,
    )
    values = [objectives(record.content) for record in records]
    accuracy, ms_per_step = (statistics.fmean(column) for column in zip(*values, strict=True))
    return accuracy, ms_per_step


def _print(record: "RunRecord") -> None:
    from rich.console import Console

    from sparselora.report.rendering.run_table import print_run

    print_run(record.content.to_dict(), str(record.path), Console())


_hydra_main = hydra.main(
    config_path=str(CONF), config_name="config", execution_whitelist=EXECUTION_WHITELIST
)(task)


def main() -> int:
    """Run the command line; see `sparselora.cli.command.execute`."""
    return execute(_hydra_main, unused=("bench.",))


if __name__ == "__main__":
    sys.exit(main())
