from pathlib import Path
from typing import Any

import pytest
import torch

from sparselora.machine.lock import DeviceLock
from sparselora.records.reference import REFERENCE_NAME
from sparselora.records.sections import RunContent
from sparselora.runs.setup import prepare, read_inputs, step_plan
from sparselora.runs.timing import add_speed, time_setting
from tests.runs.composed import composed

CPU = torch.device("cpu")
FEW = ["measure.min_rounds=2", "measure.max_rounds=2", "measure.batches=1"]


@pytest.fixture
def prepared(tiny_overrides: list[str]) -> Any:
    timed = [item for item in tiny_overrides if not item.startswith("measure.timing")]
    run, sparsities = composed([*timed, *FEW, "ffn_sparsity=0.5"])
    inputs = read_inputs(run, DeviceLock(CPU))
    plan = step_plan(run, sparsities, len(inputs.data.splits["train"]))
    return prepare(run, sparsities, inputs, CPU, DeviceLock(CPU), lambda: None), plan


def content() -> RunContent:
    return RunContent(run_id="r", calibration_seconds=0.5)


def test_a_measurement_holds_its_batches_flops_and_the_bound(prepared: Any) -> None:
    setting, _ = prepared
    rounds: list[int] = []
    measured = time_setting(setting, DeviceLock(CPU), rounds.append)
    assert rounds == [1, 2]
    assert measured.timing.rounds == 2
    assert measured.timing.bound == measured.flops.bound
    assert measured.timing.bound is not None
    assert measured.timing.bound > 1
    (batch,) = setting.inputs.batches(1)
    assert measured.mean_length == batch["input_ids"].shape[1]


def test_runs_of_a_study_share_the_first_ones_reference(prepared: Any, tmp_path: Path) -> None:
    setting, plan = prepared
    timing = time_setting(setting, DeviceLock(CPU)).timing
    alone, first, second = content(), content(), content()
    timing.stock_dense_ms, timing.speedup = 100.0, 2.0
    add_speed(first, timing, setting, plan.phases, tmp_path)
    timing.stock_dense_ms = 140.0  # the machine was slower then
    add_speed(second, timing, setting, plan.phases, tmp_path)
    add_speed(alone, timing, setting, plan.phases, None)
    assert (first.dense_reference_ms, first.ms_per_step) == (100.0, 50.0)
    assert (second.dense_reference_ms, second.ms_per_step) == (100.0, 50.0)
    assert (alone.dense_reference_ms, alone.ms_per_step) == (140.0, 70.0)
    assert first.dense_reference_key == second.dense_reference_key == alone.dense_reference_key
    assert (tmp_path / REFERENCE_NAME).exists()
    assert first.run_speedup is not None
    assert first.run_speedup < 2.0  # calibration and dense steps count
