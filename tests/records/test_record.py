import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparselora.errors import UserError
from sparselora.records.record import COMPLETED, RunRecord, read_record
from sparselora.records.sections import Metrics, RunContent, Scores


@dataclass
class Row:
    step: int
    loss: float


def test_on_disk_from_the_start_and_never_overwritten(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "runs" / "one", RunContent(label="x"))
    assert json.loads(record.path.read_text())["status"] == "running"
    with pytest.raises(UserError, match="exists"):
        RunRecord(tmp_path / "runs" / "one", RunContent())
    record.end("failed", "why")
    content = json.loads(record.path.read_text())
    assert (content["status"], content["error"]) == ("failed", "why")
    assert content["started"] <= content["ended"]


def test_steps_are_on_disk_at_once(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", RunContent())
    record.add_step(Row(1, 0.5))
    record.add_step(Row(2, 0.25))
    frame = pd.read_csv(tmp_path / "one" / "metrics.csv")
    assert frame.to_dict("list") == {"step": [1, 2], "loss": [0.5, 0.25]}


def test_predictions_grow_by_evaluation(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", RunContent())
    for step in (1, 2):
        frame = pd.DataFrame({"step": step, "logits": [np.array([0.1, 0.9], dtype=np.float32)]})
        record.add_predictions(frame)
    stored = pd.read_parquet(tmp_path / "one" / "predictions.parquet")
    assert stored["step"].tolist() == [1, 2]
    np.testing.assert_allclose(stored["logits"][1], [0.1, 0.9], rtol=1e-6)


def test_a_step_that_is_not_finite_says_so(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", RunContent())
    record.add_step(Row(1, float("inf")))
    lines = (tmp_path / "one" / "metrics.csv").read_text().splitlines()
    assert lines == ["step,loss", "1,inf"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", RunContent(label="x", config={"seed": 3}))
    record.content.metrics = Metrics(
        validation=Scores(step=4, accuracy=0.5, loss=float("nan")), best_validation=None, test=None
    )
    record.end(COMPLETED)
    found = read_record(tmp_path / "one")
    assert found is not None
    assert found.final == Scores(step=4, accuracy=0.5, loss=None)  # NaN is no figure
    assert (found.status, found.config) == (COMPLETED, {"seed": 3})
    assert replace(found, metrics=None) == replace(record.content, metrics=None)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "nowhere") is None
