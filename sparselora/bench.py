"""Run `python -m sparselora.bench`: time a setting without training it, or with `-m` several.

Takes the settings that `sparselora.run` takes, and `bench.batch_size` and `bench.seq_len`. Writes
`bench.json` in its own folder, below `outputs/runs` or `outputs/multiruns`.
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora.cli.command import EXECUTION_WHITELIST, execute
from sparselora.cli.progress import Progress
from sparselora.cli.task import config_flags, from_where_the_user_stands
from sparselora.config.checks import parse_config
from sparselora.config.choices import check_choices
from sparselora.paths import CONF
from sparselora.records.record import BENCH_NAME
from sparselora.runs.checks import check_shape, user_keys


@from_where_the_user_stands
def task(config: DictConfig) -> float:
    """Time one setting in Hydra's output folder; return ms/step."""
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    check_choices(run, job.runtime.choices, keys)
    sparsities = check_shape(run, keys)

    from rich.console import Console

    from sparselora.report.rendering.bench_table import print_bench
    from sparselora.runs.bench import bench_job
    from sparselora.runs.job import Origin

    folder = Path(job.runtime.output_dir)
    origin = Origin(overrides, job.runtime.choices.get("experiment"), config_flags(job))
    content = bench_job(run, sparsities, folder, origin, Progress)
    if job.mode is None or job.mode.name != "MULTIRUN":
        print_bench([(content, folder / BENCH_NAME)], Console())
    return float(content["sparse_ms"] or content["own_dense_ms"])


_UNUSED = (
    "measure.eval_",
    "measure.test",
    "measure.timing",
    "sparse_cooldown_ratio",
    "sparse_rampup_ratio",
    "sparse_warmup_ratio",
    "seeds",
    "train.checkpoint_every",
    "train.epochs",
    "train.keep_checkpoints",
    "train.max_steps",
    "train.resume",
)
"""What only training looks at."""

_hydra_main = hydra.main(
    config_path=str(CONF), config_name="config", execution_whitelist=EXECUTION_WHITELIST
)(task)


def main() -> int:
    """Run the command line; see `sparselora.cli.command.execute`."""
    return execute(_hydra_main, unused=_UNUSED)


if __name__ == "__main__":
    sys.exit(main())
