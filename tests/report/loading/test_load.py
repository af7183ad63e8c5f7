import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pandas as pd
import pytest

from sparselora import load_records
from sparselora.errors import UserError
from sparselora.records.sections import RunContent
from sparselora.records.typed import Section
from sparselora.report.loading.load import COLUMNS, LEGEND


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


def section_of(hint: Any) -> Any:
    options = [hint, *get_args(hint)]
    return next(
        (item for item in options if isinstance(item, type) and item is not type(None)), None
    )


def test_every_column_of_a_report_is_a_field_of_the_record() -> None:
    for name, column in COLUMNS.items():
        keys = column.path.split(".")
        if keys[0] == "config":
            continue
        at: Any = RunContent
        for key in keys:
            assert isinstance(at, type), (name, column.path)
            assert issubclass(at, Section), (name, column.path)
            hints = get_type_hints(at)
            assert key in hints, (name, column.path)
            at = section_of(hints[key])
