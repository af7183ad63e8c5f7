"""The main job: `python -m sparselora.run` does one fine-tune, and with `-m` one for each setting.

`task` is the Hydra task function: one config in, one record out, the objectives returned.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora import hydra_setup, messages
from sparselora.config import parse_config
from sparselora.errors import TrainingError
from sparselora.paths import CONF
from sparselora.preflight import check_shape, parse_arguments, preflight, user_keys

if TYPE_CHECKING:
    from sparselora.schema import RunConfig
    from sparselora.train import StepPlan, StepRow

hydra_setup.install()


def task(config: DictConfig) -> tuple[float, float]:
    """One fine-tune in Hydra's output folder.

    Returns:
        Validation accuracy at the last step, and the median ms/step of the sparse phase (of the
        dense one where the run is plain LoRA).
    """
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    sparsities = check_shape(run, keys)

    import torch

    from sparselora.device import choose_device
    from sparselora.finetune import fine_tune
    from sparselora.provenance import provenance
    from sparselora.record import RunRecord

    device = choose_device(run.train.device)
    torch.set_num_threads(run.train.threads or _default_threads())
    multirun = job.mode is not None and job.mode.name == "MULTIRUN"
    experiment = job.runtime.choices.get("experiment")
    record = RunRecord(
        Path(job.runtime.output_dir),
        {
            "label": describe(run, sparsities, experiment, keys),
            "experiment": experiment,
            "config": run.to_dict(),
            "config_hash": run.content_hash(),
            "overrides": overrides,
            "provenance": provenance(device),
        },
    )
    keep = run.train.keep_checkpoints.name
    with _Progress(record.content["label"]) as progress:
        fine_tune(
            run,
            sparsities,
            record,
            device,
            keep_last=keep == "all" or (keep == "auto" and not multirun),
            on_step=progress.on_step,
        )
    from rich.console import Console

    from sparselora.report.table import print_run

    print_run(record.content, str(record.path), Console())
    times = record.content["step_time_ms"]
    phase = "sparse" if times["sparse"]["steps"] else "dense"
    return record.content["metrics"]["validation"]["accuracy"], times[phase]["p50"]


def describe(
    run: "RunConfig", sparsities: Sequence[float], experiment: str | None, keys: frozenset[str]
) -> str:
    """A short label: the experiment's name where the user changed nothing of it, else the settings."""
    shaping = {"svd_rank", "ffn_sparsity", "sparse_warmup_ratio", "schedule", "estimator"}
    changed = {key for key in keys if key in shaping or key.startswith(("layer_", "estimator."))}
    if experiment is not None and not changed:
        return experiment
    if not any(sparsities):
        return "dense"
    mean = sum(sparsities) / len(sparsities)
    rank = "" if run.svd_rank is None else f" rank {run.svd_rank}"
    return f"{run.schedule.name} {mean:.3g} {run.estimator.name}{rank}"


class _Progress:
    """A bar of steps on standard error, with the phase, the loss and the newest accuracy."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._bar: Any = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_step(self, row: "StepRow", plan: "StepPlan", latest: dict[str, Any]) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=plan.total_steps, desc=self.label, unit="step")
        shown = f"{row.phase}, loss {row.loss:.3f}, {row.milliseconds:.0f} ms/step"
        if latest:
            shown += f", accuracy {latest['accuracy']:.3f} at {latest['step']}"
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update()


@cache
def _default_threads() -> int:
    import torch

    return torch.get_num_threads()


_hydra_main = hydra.main(
    config_path=str(CONF),
    config_name="config",
    # The only objects that the shipped configs instantiate; a config cannot name another.
    execution_whitelist=["sparselora.report.callback.SweepTable", "logging.*", "colorlog.*"],
)(task)


def main() -> int:
    """The command line. 0, or 2 for a user's mistake, 1 for a run that failed, 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Hydra would print its own traceback and exit; this makes it raise to us instead.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        preflight(parse_arguments())
        _hydra_main()
    except KeyboardInterrupt:
        print("interrupted; what was reached stands in the record", file=sys.stderr)
        return 130
    except (*messages.USER_MISTAKES, TrainingError) as error:
        if wants_traceback:
            traceback.print_exc()
        print(f"error: {messages.explain(error)}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
