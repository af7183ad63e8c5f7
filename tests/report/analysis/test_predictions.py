from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparselora.report.analysis.predictions import (
    limited_runs,
    load_predictions,
    predictions_of,
)
from sparselora.report.analysis.statistics import Bootstrap
from tests.report.synthetic import FILMS, LINES, run


def test_predictions_are_those_of_the_last_step_by_example(tmp_path: Path) -> None:
    folder = run(tmp_path / "one")
    path = folder / "predictions.parquet"
    last = pd.read_parquet(path)
    wrong = last.assign(step=1, label=1 - last["label"])
    test = last.assign(split="test", step=99, label=1 - last["label"])
    shuffled = last.sample(frac=1, random_state=0)
    pd.concat([wrong, shuffled, test]).to_parquet(path, index=False)
    found = load_predictions(folder)
    assert found is not None
    assert found.examples.tolist() == list(range(LINES))
    assert len(set(found.groups)) == FILMS
    expected = np.stack(last["logits"].tolist()).argmax(1) == last["label"].to_numpy()
    assert (found.correct == expected).all()


@pytest.mark.parametrize("logits", [[0.1] * 4, [None] * 4, ["a"] * 4, [[0.1, None]] * 4])
def test_logits_that_are_none_are_no_predictions(tmp_path: Path, logits: list[object]) -> None:
    columns = {"split": "validation", "step": 1, "example_id": range(4), "group": [None, 1, 2, 3]}
    frame = pd.DataFrame({**columns, "label": 0, "logits": logits}).astype({"group": "string"})
    frame.to_parquet(tmp_path / "predictions.parquet")
    assert load_predictions(tmp_path) is None
    frame["logits"] = [[0.1, 0.2]] * 4
    frame.to_parquet(tmp_path / "predictions.parquet")
    found = load_predictions(tmp_path)
    assert found is not None
    assert Bootstrap(found.examples, found.groups).mean([found] * 3).mean == 0.0


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut", "other columns"])
def test_predictions_that_cannot_be_read_are_none(
    tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "predictions.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        pd.DataFrame({"split": ["validation"], "step": [1]}).to_parquet(path)
    assert load_predictions(tmp_path) is None


def test_completions_say_themselves_whether_they_are_right(tmp_path: Path) -> None:
    columns = {"split": "validation", "step": 1, "example_id": ["b", "a"], "group": ["x", "y"]}
    pd.DataFrame({**columns, "correct": [True, False]}).to_parquet(tmp_path / "predictions.parquet")
    found = load_predictions(tmp_path)
    assert found is not None
    assert found.examples.tolist() == ["a", "b"]
    assert found.correct.tolist() == [False, True]
    assert found.groups.tolist() == ["y", "x"]


def test_predictions_that_contradict_the_record_are_a_problem(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"{seed}", seed=seed) for seed in (1, 2, 3)]
    (folders[2] / "predictions.parquet").unlink()
    runs = pd.DataFrame(
        {
            "folder": map(str, folders),
            "setting": "s",
            "seed": [1, 2, 3],
            "accuracy": [0.8, 0.5, 0.8],
        }
    )
    found, problems = predictions_of(runs)
    assert found.keys() == {("s", 1)}
    assert problems[("s", 2)] == "no interval: its predictions say 0.8000, its record 0.5000"
    assert "missing" in problems[("s", 3)]
    table = limited_runs(runs, problems)
    assert table["folder"].tolist() == [str(folder) for folder in folders[1:]]
