"""Paired timing of one setting: stock PEFT LoRA, our dense path and our sparse one, interleaved.

The arms step over the same batches, optimizer included, on throw-away copies: nothing here touches the
weights, the random state or the patch of the model that is given.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparselora.config.schema import MeasureConfig, TrainConfig
from sparselora.machine.device import step_memory
from sparselora.machine.lock import DeviceLock
from sparselora.machine.provenance import load_average
from sparselora.machine.timer import Budget, Interval, StepTimer, interleave, paired_ratio
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.backbone.attention import find_attention
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.calibration import Calibration
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.patch import SparsityHandle, sparsify
from sparselora.sparse.tensors import tensors_in
from sparselora.training.loop import Loss, Stepper, to_device

STOCK, AGAIN, OWN, SPARSE = "stock", "stock_again", "own_dense", "sparse"
FAST_AGAIN = "fast_again"
"""A second step of what the speed-up is of: the sparse path, or our dense one in plain LoRA."""
SCHEDULE_STEPS = 1_000_000
"""Length of the arms' learning-rate schedule: no arm comes to its end."""


def fast_arm(sparsity: SparsityConfig | None) -> str:
    """What the speed-up is of."""
    return OWN if sparsity is None else SPARSE


class Arms:
    """The models that are timed against each other.

    Frozen weights are shared with `model`, but for those that a patch lays out anew, so two copies
    cost little; what trains is copied.

    Args:
        model: not patched.
        sparsity: of the sparse arm; None where the run is plain LoRA, which has no such arm.
        loss: of our arms; stock's is the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: SparsityConfig | None,
        train: TrainConfig,
        device: torch.device,
        calibration: Calibration | None = None,
        loss: Loss | None = None,
    ) -> None:
        self.device = device
        relaid = _relaid(model, sparsity)
        stock, own = _copy(model, relaid), _copy(model, relaid)
        self.models = {STOCK: stock, OWN: own}
        self.handle: SparsityHandle | None = None
        if sparsity is None:
            accelerate(own)
        else:
            self.handle = sparsify(own, sparsity, calibration)
            self.handle.disable()
        steppers = {
            name: Stepper(arm, train, SCHEDULE_STEPS, device, None if name == STOCK else loss)
            for name, arm in self.models.items()
        }
        self.names = list(dict.fromkeys([STOCK, AGAIN, OWN, fast_arm(sparsity), FAST_AGAIN]))
        self._stepper_of = {
            name: steppers[STOCK if name in (STOCK, AGAIN) else OWN] for name in self.names
        }

    def step(self, name: str, micro_batches: Sequence[dict[str, Tensor]]) -> StepTimer:
        """One optimizer step of one arm."""
        if self.handle is not None:
            (self.handle.enable if name in (SPARSE, FAST_AGAIN) else self.handle.disable)()
        return self._stepper_of[name].step(micro_batches)[2]

    def memory(
        self, name: str, micro_batches: Sequence[dict[str, Tensor]]
    ) -> dict[str, float | None]:
        """Of one step of one arm, see `step_memory`."""
        held = [*tensors_in(dict(self._stepper_of[name].optimizer.state))]
        if self.handle is not None and name != STOCK:
            held += self.handle.held()
        model = self.models[STOCK if name == STOCK else OWN]
        return step_memory(model, partial(self.step, name, micro_batches), self.device, held)


def _relaid(model: nn.Module, sparsity: SparsityConfig | None) -> set[int]:
    """The frozen weights that a patch lays out anew, by id."""
    scattered = [block.scattered() for block in find_blocks(model)]
    if sparsity is not None and sparsity.sparsifies_attention:
        scattered += [attention.scattered() for attention in find_attention(model)]
    return {id(weight) for weights in scattered for weight in weights}


def _copy(model: nn.Module, relaid: set[int]) -> nn.Module:
    shared = {
        id(parameter): parameter
        for parameter in model.parameters()
        if not parameter.requires_grad and id(parameter) not in relaid
    }
    return copy.deepcopy(model, shared)


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
    """Time the arms under the device's lock; → the record's `timing`.

    Args:
        model: trained or not; not patched.
        sparsity: None for plain LoRA, which has no sparse arm.
        batches: real ones, taken in turn.
        settings: budget.
        on_round: told of each round.
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
