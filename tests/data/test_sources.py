from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from sparselora.config.groups import DataConfig
from sparselora.data import sources
from sparselora.data.load import load_data
from sparselora.data.sources import check_path, read_frames, register_dataset
from sparselora.errors import UserError
from tests.conftest import sentences
from tests.data.files import QUOTED_LINES, tsv
from tests.data.files import config as table


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    own: dict[str, Any] = {}
    monkeypatch.setattr(sources, "_REGISTERED", own)
    return own


def config(**changes: Any) -> DataConfig:
    settings = {"name": "mine", "path": "dataset:mine", "text_column": "sentence"}
    return DataConfig(**(settings | {"label_column": "kind"} | changes))


def test_rows_of_a_function_are_those_of_the_same_table(tmp_path: Any) -> None:
    frame = sentences(240)
    frame.to_csv(tmp_path / "lines.csv", index=False)
    table = load_data(config(path=str(tmp_path / "lines.csv")))
    register_dataset("mine", lambda _: {"all": frame.set_axis([7] * len(frame))})
    assert load_data(config()) == table


def test_rows_by_split_stay_in_theirs_and_the_function_is_given_the_settings() -> None:
    frame = sentences(240)
    seen = []

    def read(asked: DataConfig) -> dict[str, pd.DataFrame]:
        seen.append(asked)
        return {"train": frame[:200], "test": frame[200:]}

    register_dataset("mine", read)
    data = load_data(config(max_length=17))
    assert seen == [config(max_length=17)]
    assert len(data.splits["test"]) == 40
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 200


def test_a_function_registered_anew_gives_its_own_rows() -> None:
    register_dataset("mine", lambda _: {"all": sentences(240)})
    before = load_data(config())
    register_dataset("mine", lambda _: {"all": sentences(120)})
    after = load_data(config())
    assert sum(map(len, before.splits.values())) == 240
    assert sum(map(len, after.splits.values())) == 120


@pytest.mark.parametrize(
    ("names", "allowed"),
    [((), "no data set is registered"), (("b", "a"), "dataset:a, dataset:b is allowed")],
)
def test_an_unknown_name_says_what_is_registered(names: tuple[str, ...], allowed: str) -> None:
    for name in names:
        register_dataset(name, lambda _: {})
    with pytest.raises(UserError, match=f"^data.path=dataset:mine: {allowed}$"):
        check_path(config())


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([], "gave a list; a mapping from splits to pandas.DataFrame is allowed"),
        ({}, "gave no split; all alone, or train"),
        ({"dev": sentences(3)}, "gave dev; all alone, or train"),
        ({"all": sentences(3), "train": sentences(3)}, "gave all, train; all alone, or train"),
        ({"test": sentences(3)}, "gave test; all alone, or train"),
        ({"all": [{"sentence": "a"}]}, "gave a list for all; a pandas.DataFrame is allowed"),
        ({"train": sentences(3), "test": sentences(3)[:0]}, "gave no rows for test"),
    ],
    ids=str,
)
def test_what_is_no_data_set_is_a_line(found: Any, problem: str) -> None:
    register_dataset("mine", lambda _: found)
    with pytest.raises(UserError, match=f"^data.path=dataset:mine: {problem}"):
        read_frames(config())


def test_a_function_that_fails_is_a_line() -> None:
    def read(_: DataConfig) -> dict[str, pd.DataFrame]:
        raise KeyError("where")

    register_dataset("mine", read)
    with pytest.raises(UserError, match=r"^data.path=dataset:mine: cannot be read \(.*where"):
        read_frames(config())


def test_a_missing_column_is_told_as_of_a_table() -> None:
    register_dataset("mine", lambda _: {"all": sentences(30)})
    with pytest.raises(UserError, match=r"^data.text_column=no: no such column in dataset:mine"):
        load_data(config(text_column="no"))


@pytest.mark.parametrize("name", ["", "a b", "a:b", 3])
def test_a_name_that_no_path_could_hold_is_refused(name: Any) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        register_dataset(name, lambda _: {})
    with pytest.raises(UserError, match="a function is allowed"):
        register_dataset("mine", {})  # type: ignore[arg-type]


def hub_dict(with_test: bool = True) -> datasets.DatasetDict:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "kind": datasets.ClassLabel(names=["down", "up"])}
    )

    def part(start: int, labelled: bool = True) -> datasets.Dataset:
        frame = sentences(120).iloc[start : start + 40]
        kinds = [["down", "up"].index(kind) if labelled else -1 for kind in frame["kind"]]
        return datasets.Dataset.from_dict(
            {"sentence": frame["sentence"].tolist(), "kind": kinds}, features=features
        )

    parts = {"train": part(0), "validation": part(40)}
    return datasets.DatasetDict(parts | ({"test": part(80, labelled=False)} if with_test else {}))


def test_hub_format_on_disk_with_named_classes_and_secret_test_labels(tmp_path: Path) -> None:
    hub_dict().save_to_disk(tmp_path / "hub")
    data = load_data(
        config(path=str(tmp_path / "hub"), validation_split="validation", test_split="test")
    )
    assert data.label_names == ["down", "up"]
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 40,
        "validation": 40,
        "test": 0,
    }
    assert data.dropped_rows == 40


def test_a_folder_of_parquet_files_as_the_hub_serves_it(tmp_path: Path) -> None:
    for name, part in hub_dict().items():
        part.to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    data = load_data(config(path=str(tmp_path), validation_split="validation", test_fraction=0.0))
    assert len(data.splits["validation"]) == 40
    assert len(data.splits["train"]) == 40


def test_split_that_is_not_there(tmp_path: Path) -> None:
    hub_dict().save_to_disk(tmp_path / "hub")
    with pytest.raises(UserError, match=r"data.validation_split=dev.*train, validation, test"):
        load_data(config(path=str(tmp_path / "hub"), validation_split="dev"))


@pytest.mark.parametrize("layout", [("train.tsv",), ("data/train.tsv", "data/test.tsv")])
def test_a_folder_of_tables_is_read_as_its_files_are(
    tmp_path: Path, layout: tuple[str, ...]
) -> None:
    """By another reader 60 lines of such a folder were 23 rows."""
    lines = list(QUOTED_LINES)
    lines[3], lines[30] = f'"{lines[3]}', f'"{lines[30]}'
    for name in layout:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tsv(tmp_path, lines).rename(tmp_path / name)
    splits = {"test_split": "test"} if len(layout) > 1 else {}
    with pytest.raises(UserError, match=r"data.quoting=csv or data.quoting=none"):
        load_data(table(tmp_path, **splits))
    data = load_data(table(tmp_path, quoting="none", **splits))
    assert sum(map(len, data.splits.values())) == 40 * len(layout)
    with pytest.raises(UserError, match=r"data.validation_split=dev: no such file .* train.tsv"):
        load_data(table(tmp_path, quoting="none", validation_split="dev"))
