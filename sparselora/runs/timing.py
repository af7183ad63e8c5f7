"""Time a run against stock LoRA, and set it against its study's reference."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparselora.config.identity import reference_key
from sparselora.machine.lock import DeviceLock
from sparselora.machine.provenance import device_name
from sparselora.measuring import bound
from sparselora.measuring.measure import measure
from sparselora.records.costs import Flops, Timing
from sparselora.records.reference import dense_reference
from sparselora.records.sections import RunContent
from sparselora.records.typed import build
from sparselora.runs.setup import Prepared
from sparselora.sparse.phases import Phases


@dataclass(frozen=True)
class Measured:
    """Hold one measurement, and the FLOPs and the mean length of the batches that it was made on."""

    timing: Timing
    flops: Flops
    mean_length: float


def time_setting(
    prepared: Prepared, lock: DeviceLock, on_round: Callable[[int], None] = lambda _: None
) -> Measured:
    """Time the prepared model, which is not patched, against stock LoRA.

    Args:
        prepared: the model, its batches and its settings.
        lock: of the device, held alone while steps are timed.
        on_round: called after each round, with how many are done.
    """
    run = prepared.run
    batches = prepared.inputs.batches(run.measure.batches * run.train.gradient_accumulation_steps)
    timing: dict[str, Any] = measure(
        prepared.model,
        prepared.sparsity,
        batches,
        run.train,
        run.measure,
        prepared.device,
        lock,
        on_round,
        calibration=prepared.fitted.calibration,
        loss=prepared.task.loss,
    )
    flops = bound.add_bound(timing, prepared.model, run, prepared.kept, batches)
    length = sum(batch["input_ids"].shape[1] for batch in batches) / len(batches)
    return Measured(build(Timing, timing), build(Flops, flops), length)


def add_speed(
    content: RunContent,
    timing: Timing,
    prepared: Prepared,
    phases: Phases,
    study: Path | None,
) -> None:
    """Put a run's timing into its record, and what follows for its whole length.

    Args:
        content: of the record, with its calibration's seconds.
        timing: measured after training.
        prepared: the run's model and settings.
        phases: of its steps.
        study: folder whose runs share a dense reference; None for a run on its own.
    """
    assert timing.stock_dense_ms is not None
    assert timing.speedup is not None
    assert content.calibration_seconds is not None
    key = reference_key(prepared.run, device_name(prepared.device), torch.get_num_threads())
    reference = timing.stock_dense_ms
    if study is not None:
        reference = dense_reference(study, key, reference)
    content.timing = timing
    content.dense_reference_key = key
    content.dense_reference_ms = reference
    content.ms_per_step = reference / timing.speedup
    content.run_speedup = bound.run_speedup(timing.to_dict(), phases, content.calibration_seconds)
