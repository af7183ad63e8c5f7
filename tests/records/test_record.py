import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparselora.errors import UserError
from sparselora.records.files import write_atomically
from sparselora.records.record import RunRecord


@dataclass
class Row:
    step: int
    loss: float


def test_on_disk_from_the_start_and_never_overwritten(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "runs" / "one", {"label": "x"})
    assert json.loads(record.path.read_text())["status"] == "running"
    with pytest.raises(UserError, match="exists"):
        RunRecord(tmp_path / "runs" / "one", {})
    record.end("failed", "why")
    content = json.loads(record.path.read_text())
    assert (content["status"], content["error"]) == ("failed", "why")
    assert content["started"] <= content["ended"]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", {"a": float("nan"), "b": [1.0, float("inf")]})
    content = json.loads(record.path.read_text())
    assert content["a"] is None
    assert content["b"] == [1.0, None]


def test_steps_are_on_disk_at_once(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", {})
    record.add_step(Row(1, 0.5))
    record.add_step(Row(2, 0.25))
    frame = pd.read_csv(tmp_path / "one" / "metrics.csv")
    assert frame.to_dict("list") == {"step": [1, 2], "loss": [0.5, 0.25]}


def test_predictions_grow_by_evaluation(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "one", {})
    for step in (1, 2):
        frame = pd.DataFrame({"step": step, "logits": [np.array([0.1, 0.9], dtype=np.float32)]})
        record.add_predictions(frame)
    stored = pd.read_parquet(tmp_path / "one" / "predictions.parquet")
    assert stored["step"].tolist() == [1, 2]
    np.testing.assert_allclose(stored["logits"][1], [0.1, 0.9], rtol=1e-6)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
