"""Time one setting, interleaved: stock PEFT LoRA, our dense path and our sparse one.

The arms step over the same batches, optimizer included, on throw-away copies: nothing here touches the
weights, the random state or the patch of the model that is given.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparselora.config.groups import MeasureConfig, TrainConfig
from sparselora.machine.lock import DeviceLock
from sparselora.machine.provenance import load_average
from sparselora.machine.timer import StepTimer
from sparselora.measuring.arms import AGAIN, FAST_AGAIN, OWN, STOCK, Arms, fast_arm
from sparselora.measuring.interleave import Budget, Interval, interleave, paired_ratio
from sparselora.sparse.channels.moments import Calibration
from sparselora.sparse.config import SparsityConfig
from sparselora.training.stepper import Loss, to_device


def measure(
    model: nn.Module,
    sparsity: SparsityConfig | None,
    batches: Sequence[dict[str, Tensor]],
    train: TrainConfig,
    settings: MeasureConfig,
    device: torch.device,
    lock: DeviceLock,
    on_round: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    calibration: Calibration | None = None,
    loss: Loss | None = None,
) -> dict[str, Any]:
    """Time the arms under the device's lock; return the record's `timing`.

    Args:
        model: trained or not; not patched.
        sparsity: None for plain LoRA, which has no sparse arm.
        batches: real ones, taken in turn.
        train: settings of the optimizer.
        settings: budget.
        device: of `model`.
        lock: of that device.
        on_round: called with the number of each round.
        seed: of the order of the arms.
        calibration: where `sparsity` needs it.
        loss: of our arms; stock's is always the model's own.

    Returns:
        Times in ms and ratios over stock PEFT LoRA, with their intervals. `speedup` is stock over
        sparse (over our dense path where the run is plain LoRA), `own_speedup` our dense over
        sparse, `aa_speedup` stock over itself; `stable` is whether that one holds 1.0 and is no wider
        than three times `measure.interval_width`.
    """
    fast = fast_arm(sparsity)

    with lock.shared(), torch.random.fork_rng(devices=_cuda(device)):
        arms = Arms(model, sparsity, train, device, calibration, loss)
        ready = [to_device(batch, device) for batch in batches]
        rounds = _grouped(ready, train.gradient_accumulation_steps)
    with lock.alone(), torch.random.fork_rng(devices=_cuda(device)):
        load = load_average()  # before, so that it is the others' load
        times = interleave(
            {name: partial(_step_of_round, arms, name, rounds) for name in arms.names},
            Budget(
                settings.min_rounds,
                settings.max_rounds,
                settings.seconds,
                settings.interval_width,
            ),
            partial(_least_sure, fast=fast),
            seed=seed,
            on_round=on_round,
        )
        longest = max(rounds, key=lambda group: sum(batch["input_ids"].numel() for batch in group))
        memory = {name: arms.memory(name, longest) for name in (STOCK, fast)}
    summary = _summary(times, fast, memory, settings.interval_width)
    return summary | {"load_average": load}


def _step_of_round(
    arms: Arms, name: str, rounds: Sequence[Sequence[dict[str, Tensor]]], number: int
) -> StepTimer:
    return arms.step(name, rounds[number % len(rounds)])


def _summary(
    times: Mapping[str, list[float]],
    fast: str,
    memory: Mapping[str, dict[str, float | None]],
    width: float,
) -> dict[str, Any]:
    stock = times[STOCK]
    control = _control(times)
    speedup = _speedup(times, fast)
    own = paired_ratio(times[OWN], times[fast]) if fast != OWN else None
    dense = paired_ratio(stock, times[OWN])
    return {
        "rounds": len(stock),
        "stock_dense_ms": _median(stock),
        "own_dense_ms": _median(times[OWN]),
        "sparse_ms": _median(times[fast]) if fast != OWN else None,
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "dense_speedup": dense.median,
        "own_speedup": None if own is None else own.median,
        "own_speedup_low": None if own is None else own.low,
        "own_speedup_high": None if own is None else own.high,
        "aa_speedup": control.median,
        "aa_low": control.low,
        "aa_high": control.high,
        # An interval that holds 1 because it is wide says nothing.
        "stable": control.low <= 1.0 <= control.high and control.width <= 3 * width,
        "peak_memory_mb": memory[fast]["peak_mb"],
        "dense_peak_memory_mb": memory[STOCK]["peak_mb"],
        "reserved_memory_mb": memory[fast]["reserved_mb"],
        "dense_reserved_memory_mb": memory[STOCK]["reserved_mb"],
        "saved_for_backward_mb": memory[fast]["saved_mb"],
        "dense_saved_for_backward_mb": memory[STOCK]["saved_mb"],
    }


def _control(times: Mapping[str, list[float]]) -> Interval:
    return paired_ratio(times[STOCK], times[AGAIN])


def _speedup(times: Mapping[str, list[float]], fast: str) -> Interval:
    # The faster of two steps of each a round: what disturbs a step only ever adds to it. Over ten
    # measurements on a shared machine the ratio's standard error was .66 % of it, with geometric means
    # of the two .94 %. Both sides are treated alike, so equal arms give 1.
    return paired_ratio(
        np.minimum(times[STOCK], times[AGAIN]), np.minimum(times[fast], times[FAST_AGAIN])
    )


def _least_sure(times: Mapping[str, list[float]], fast: str) -> float:
    # A control that is less sure than what it vouches for would not see what it is there to see.
    return max(_speedup(times, fast).width, _control(times).width)


def _grouped(batches: Sequence[Any], size: int) -> list[list[Any]]:
    whole = len(batches) // size * size
    return [list(batches[start : start + size]) for start in range(0, whole, size)]


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
