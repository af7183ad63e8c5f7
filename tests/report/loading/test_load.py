import json
from pathlib import Path

import pandas as pd
import pytest

from sparselora import load_records
from sparselora.errors import UserError
from sparselora.report.analysis.comparison import compare
from sparselora.report.loading.load import COLUMNS, LEGEND
from sparselora.report.loading.usable import problems
from tests.report.synthetic import run


def write(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content))


def record(accuracy: float, realised: float, seed: int = 1, **extra: object) -> dict:
    return {
        "run_id": "x",
        "status": "completed",
        "label": "dense" if realised == 0 else "sparse",
        "config": {
            "model": {"name": "m", "random_init": False},
            "data": {"name": "d"},
            "seed": seed,
            "train": {"max_steps": 5, "threads": seed},
        },
        "steps": {"dense": 5 if realised == 0 else 1, "sparse": 0 if realised == 0 else 4},
        "metrics": {"validation": {"accuracy": accuracy, "f1": 0.5, "loss": 0.6}},
        "sparsity": {"realised_mean": realised},
        **extra,
    }


def test_whatever_lies_there_gives_a_row(tmp_path: Path) -> None:
    write(tmp_path / "10", **record(0.8, 0.0))
    write(tmp_path / "9", **record(0.7, 0.5))
    write(tmp_path / "a-old", status="completed", metrics=None)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "record.json").write_text('{"status": "runn')
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "record.json").write_text("[1]")
    frame = load_records(tmp_path)
    assert len(frame) == 5
    assert frame["status"].value_counts().to_dict() == {"completed": 3, "unreadable": 2}
    # Numbered folders are in the order of their numbers.
    assert [Path(folder).name for folder in frame["folder"]][-2:] == ["9", "10"]
    assert pd.api.types.is_numeric_dtype(frame["accuracy"])
    assert load_records(tmp_path / "cut")["accuracy"].isna().all()


def test_no_folder_and_no_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_records(tmp_path / "gone")
    assert load_records(tmp_path).empty


def test_columns_are_typed_and_have_a_legend(tmp_path: Path) -> None:
    write(tmp_path / "a", **record(0.8, 0.5, schema_version=1, timing={"stable": True}))
    write(tmp_path / "b", **record(0.8, 0.5, schema_version="one", timing={"stable": "yes"}))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "record.json").write_text("")
    for frame in (load_records(tmp_path), load_records(tmp_path / "c")):
        for name, column in COLUMNS.items():
            assert str(frame[name].dtype) == column.dtype, name
        assert set(LEGEND) <= set(frame)
    frame = load_records(tmp_path)
    assert frame["schema_version"].tolist() == [1, pd.NA, pd.NA]
    assert frame["config.train.max_steps"].tolist()[:2] == [5, 5]


def test_a_number_that_is_not_whole_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a", **record(0.8, 0.5, parameters={"trained": 1.5}))
    assert load_records(tmp_path)["trained_parameters"].tolist() == [1.5]


def test_folders_that_overlap_count_once(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a", **record(0.8, 0.5))
    assert len(load_records(tmp_path, tmp_path / "x", str(tmp_path / "x" / ".." / "x"))) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"status": "failed", "error": "nan"}, "failed: nan"),
        ({"status": "running"}, "running"),
        ({}, "no status"),
        ({"status": "completed"}, "no validation accuracy"),
        (record(0.8, 0.0), "schema version missing, this is 1"),
        (record(0.8, 0.0, schema_version=0), "schema version 0, this is 1"),
        (record(0.8, 0.0, schema_version=1), None),
        (record(0.8, 0.0) | {"config": [1]}, "no configuration with a seed"),
        (record(0.8, 0.0) | {"config": {"model": {}}}, "no configuration with a seed"),
        (record(0.8, 0.0, seed=1e30), "no configuration with a seed"),  # type: ignore[arg-type]
    ],
)
def test_problems_are_named(tmp_path: Path, content: dict, problem: str | None) -> None:
    write(tmp_path / "a", **content)
    found = problems(load_records(tmp_path))["problem"].tolist()
    assert found == [] if problem is None else problem in found[0]


def test_a_replaced_run_is_named(tmp_path: Path) -> None:
    for day in (1, 2):
        write(tmp_path / f"{day}", **record(0.8, 0.0, schema_version=1, started=f"2026-01-0{day}"))
    found = problems(load_records(tmp_path))
    assert found["problem"].tolist() == ["left out: a later run has the same setting and seed"]
    assert found["folder"].str.endswith("1").all()


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1e999", "9" * 30])
def test_numbers_that_no_column_holds(tmp_path: Path, number: str) -> None:
    # The one stopped every report, the other every script of its page.
    path = run(tmp_path / "a") / "record.json"
    text = path.read_text().replace('"trained": 1000', f'"trained": {number}')
    path.write_text(text.replace('"svd_rank": 4', f'"svd_rank": {number}'))
    (value,) = load_records(tmp_path)["trained_parameters"].tolist()
    assert pd.isna(value) or value == 1e30
    assert "Infinity" not in load_records(tmp_path)["setting"].iloc[0]


def test_characters_that_cannot_be_drawn_are_replaced(tmp_path: Path) -> None:
    # One in a label ended the renderer, and with it the report.
    run(tmp_path / "a", "a\x1b[31mb\uffffc\nd\ud800", experiment="\x01")
    (row,) = load_records(tmp_path).to_dict("records")
    assert row["label"] == "a\ufffd[31mb\ufffdc\nd?"
    assert row["experiment"] == "\ufffd"


@pytest.mark.parametrize("accuracy", [71.46, -0.1, 1e308])
def test_an_accuracy_that_is_no_share_is_named(tmp_path: Path, accuracy: float) -> None:
    path = run(tmp_path / "a") / "record.json"
    content = json.loads(path.read_text())
    content["metrics"]["validation"]["accuracy"] = accuracy
    path.write_text(json.dumps(content))
    assert compare(load_records(tmp_path)) == []
    assert "no share from 0 to 1" in problems(load_records(tmp_path))["problem"].iloc[0]


def test_a_seed_given_as_text_is_that_seed(tmp_path: Path) -> None:
    content = json.loads((run(tmp_path / "a") / "record.json").read_text())
    run(tmp_path / "b", config=content["config"] | {"seed": "1"})
    records = load_records(tmp_path)
    (comparison,) = compare(records)
    assert len(comparison.runs) == 1
    assert problems(records)["problem"].str.contains("a later run has the same setting").sum() == 1
