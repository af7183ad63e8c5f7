import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from sparselora.machine.lock import DeviceLock
from sparselora.records.record import RunRecord
from sparselora.records.sections import RunContent
from sparselora.runs.keeper import Keeper
from sparselora.runs.setup import prepare, read_inputs, step_plan
from sparselora.training.adapters import adapter_state
from tests.runs.composed import composed

CPU = torch.device("cpu")


@pytest.fixture
def make(tiny_overrides: list[str], tmp_path: Path) -> Any:
    def keeper(*overrides: str, keep_last: bool = True) -> Keeper:
        run, sparsities = composed([*tiny_overrides, *overrides])
        lock = DeviceLock(CPU)
        inputs = read_inputs(run, lock)
        plan = step_plan(run, sparsities, len(inputs.data.splits["train"]))
        prepared = prepare(run, sparsities, inputs, CPU, lock, lambda: None)
        record = RunRecord(tmp_path / "run", RunContent(run_id="r", config=run.to_dict()))
        return Keeper(record, prepared, inputs, plan, None, lock, keep_last)

    return keeper


def worsen(keeper: Keeper) -> None:
    # Larger and larger logits of one class: the loss rises, whatever the accuracy.
    with torch.no_grad():
        for name, parameter in keeper.prepared.model.named_parameters():
            if parameter.requires_grad and "classifier" in name and parameter.dim() == 1:
                parameter[0] += 50.0


def test_the_best_adapter_stays_on_disk_while_later_ones_are_worse(make: Any) -> None:
    keeper = make("experiment=dense")
    keeper.validate(0)
    folder = keeper.record.folder / "adapter" / "best"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = adapter_state(keeper.prepared.model)
    worsen(keeper)
    keeper.validate(5)
    scores = [each.loss for each in keeper.history.evaluations]
    assert scores[1] > scores[0] + 1
    if keeper.history.best.step == 0:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    keeper.summarise()
    keeper.history.best_state = state
    keeper.test()
    now = adapter_state(keeper.prepared.model)
    assert all(torch.equal(now[name], state[name]) for name in state)
    assert keeper.record.content.metrics.test is not None


def test_predictions_of_each_evaluation_stand_beside_the_record(make: Any) -> None:
    keeper = make("experiment=dense")
    for step in (0, 5):
        keeper.validate(step)
    frame = pd.read_parquet(keeper.record.folder / "predictions.parquet")
    rows = len(keeper.inputs.data.splits["validation"])
    assert frame.groupby("step").size().to_dict() == {0: rows, 5: rows}


@pytest.mark.parametrize(
    ("overrides", "keep_last", "kept"),
    [
        ((), True, {"best"}),  # no step was done, so there is no last one
        (("train.keep_checkpoints=none",), True, set()),
        ((), False, {"best"}),
    ],
)
def test_what_is_kept_of_the_adapters(
    make: Any, overrides: tuple[str, ...], keep_last: bool, kept: set[str]
) -> None:
    keeper = make("experiment=dense", *overrides, keep_last=keep_last)
    keeper.validate(0)
    keeper.finish()
    folder = keeper.record.folder / "adapter"
    assert {path.name for path in folder.iterdir()} == kept if kept else not folder.exists()
    on_disk = json.loads((keeper.record.folder / "record.json").read_text())
    assert on_disk["evaluations"][0]["step"] == 0
    assert on_disk["steps"]["dense"] == 0
