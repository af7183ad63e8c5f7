"""The main job: `python -m sparselora.run` does one fine-tune, and with `-m` one for each setting.

`task` is the Hydra task function: one config in, one record out, the objectives returned.
"""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora.checks import check_shape, user_keys
from sparselora.command import EXECUTION_WHITELIST, execute
from sparselora.config import parse_config
from sparselora.labels import describe
from sparselora.paths import CONF
from sparselora.progress import Progress


def task(config: DictConfig) -> tuple[float, float]:
    """One fine-tune in Hydra's output folder.

    Returns:
        See `objectives`.
    """
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    sparsities = check_shape(run, keys)

    from sparselora.device import choose_device, use_threads
    from sparselora.finetune import fine_tune
    from sparselora.provenance import provenance
    from sparselora.record import RunRecord

    device = choose_device(run.train.device)
    use_threads(run.train.threads)
    multirun = job.mode is not None and job.mode.name == "MULTIRUN"
    experiment = job.runtime.choices.get("experiment")
    label = describe(run, sparsities, experiment, keys)
    record = RunRecord(
        Path(job.runtime.output_dir),
        {
            "label": label,
            "experiment": experiment if label == experiment else None,
            "config": run.to_dict(),
            "config_hash": run.content_hash(),
            "overrides": overrides,
            "provenance": provenance(device),
        },
    )
    keep = run.train.keep_checkpoints.name
    with Progress(label) as progress:
        fine_tune(
            run,
            sparsities,
            record,
            device,
            keep_last=keep == "all" or (keep == "auto" and not multirun),
            on_step=progress.on_step,
            on_round=progress.on_round,
            study=Path(job.sweep.dir) if multirun else None,
        )
    if job.runtime.choices.get("hydra/sweeper") != "search":  # which says it in a line
        from rich.console import Console

        from sparselora.report.table import print_run

        print_run(record.content, str(record.path), Console())
    return objectives(record.content)


def objectives(content: dict[str, Any]) -> tuple[float, float]:
    """Validation accuracy at the end, and ms/step: drift-corrected, or raw where nothing was timed."""
    times = content["step_time_ms"]
    raw = times["sparse" if times["sparse"]["steps"] else "dense"]["p50"]
    return content["metrics"]["validation"]["accuracy"], content.get("ms_per_step") or raw


_hydra_main = hydra.main(
    config_path=str(CONF), config_name="config", execution_whitelist=EXECUTION_WHITELIST
)(task)


def main() -> int:
    """The command line; see `sparselora.command.execute`."""
    return execute(_hydra_main, unused=("bench.",))


if __name__ == "__main__":
    sys.exit(main())
