"""The main job: `python -m sparselora.run` does one fine-tune, and with `-m` one for each setting.

`task` is the Hydra task function: one config in, one record out, the objectives returned.
"""

import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora.cli.command import EXECUTION_WHITELIST, execute
from sparselora.cli.job import config_flags, from_where_the_user_stands
from sparselora.cli.progress import Progress
from sparselora.config.checks import parse_config
from sparselora.config.choices import check_choices
from sparselora.config.identity import content_hash
from sparselora.config.naming import describe
from sparselora.config.schema import RunConfig
from sparselora.paths import CONF
from sparselora.runs.checks import check_shape, user_keys


@from_where_the_user_stands
def task(config: DictConfig) -> tuple[float, float]:
    """One fine-tune in Hydra's output folder, or with `seeds` one for each below it.

    Returns:
        See `objectives`; means over seeds.
    """
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    check_choices(run, job.runtime.choices, keys)
    sparsities = check_shape(run, keys)
    folder = Path(job.runtime.output_dir)
    if run.seeds is None:
        return objectives(_run_one(run, sparsities, job, folder))

    from sparselora.runs.repeats import run_repeats

    def one(seed: int, child: Path) -> dict[str, Any]:
        alone = replace(run, seed=seed, seeds=None)
        run_id = f"{folder.parent.name}/{folder.name}/{child.name}"
        return _run_one(alone, sparsities, job, child, run_id)

    # A named setting is what others are compared with: it is never given up.
    named = job.runtime.choices.get("experiment") is not None
    sweep = Path(job.sweep.dir) if _is_multirun(job) and not named else None
    values = [objectives(record) for record in run_repeats(run.seeds, folder, one, sweep)]
    accuracy, ms_per_step = (statistics.fmean(column) for column in zip(*values, strict=True))
    return accuracy, ms_per_step


def _run_one(
    run: RunConfig, sparsities: list[float], job: Any, folder: Path, run_id: str | None = None
) -> dict[str, Any]:
    from sparselora.machine.device import choose_device, use_threads
    from sparselora.machine.provenance import provenance
    from sparselora.records.record import RunRecord
    from sparselora.runs.fine_tune import fine_tune

    device = choose_device(run.train.device)
    use_threads(run.train.threads)
    overrides = list(job.overrides.task)
    if run_id is not None:  # the command that repeats this seed alone
        overrides = [item for item in overrides if not item.lstrip("+").startswith("seeds=")]
        overrides.append(f"seed={run.seed}")
    experiment = job.runtime.choices.get("experiment")
    label = describe(run, sparsities, experiment, user_keys(overrides))
    content = {
        "label": label,
        "experiment": experiment if label == experiment else None,
        "config": run.to_dict(),
        "config_hash": content_hash(run),
        "overrides": overrides,
        "config_flags": config_flags(job),
        "provenance": provenance(device),
    }
    record = RunRecord(folder, content if run_id is None else content | {"run_id": run_id})
    keep = run.train.keep_checkpoints.name
    multirun = _is_multirun(job)
    with Progress(label if run_id is None else f"{label}, seed {run.seed}") as progress:
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

        from sparselora.report.rendering.run_table import print_run

        print_run(record.content, str(record.path), Console())
    return record.content


def _is_multirun(job: Any) -> bool:
    return job.mode is not None and job.mode.name == "MULTIRUN"


def objectives(content: Mapping[str, Any]) -> tuple[float, float]:
    """Validation accuracy at the end, and ms/step: drift-corrected, or raw where nothing was timed."""
    times = content["step_time_ms"]
    raw = times["sparse" if times["sparse"]["steps"] else "dense"]["p50"]
    return content["metrics"]["validation"]["accuracy"], content.get("ms_per_step") or raw


_hydra_main = hydra.main(
    config_path=str(CONF), config_name="config", execution_whitelist=EXECUTION_WHITELIST
)(task)


def main() -> int:
    """The command line; see `sparselora.cli.command.execute`."""
    return execute(_hydra_main, unused=("bench.",))


if __name__ == "__main__":
    sys.exit(main())
