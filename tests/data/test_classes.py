"""Which labels are classes, and what a user is told of them."""

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from sparselora.data.load import load_data
from sparselora.errors import UserError
from tests.data.files import FORMATS, config, write


@pytest.mark.parametrize("ending", FORMATS)
def test_numbers_to_predict_are_no_classes(tmp_path: Path, ending: str) -> None:
    """240 floats became 216 classes."""
    rows = [{"text": f"line {n}", "label": round((n * 37 % 216) / 7, 3)} for n in range(240)]
    path = write(rows, tmp_path / f"lines.{ending}")
    with pytest.raises(UserError, match=r"data.label_column=label: .*distinct numbers with frac"):
        load_data(config(path))


def test_half_stars_are_classes(tmp_path: Path) -> None:
    rows = [{"text": f"line {n}", "label": (n % 9) / 2 + 0.5} for n in range(240)]
    for ending in FORMATS:
        data = load_data(config(write(rows, tmp_path / f"lines.{ending}")))
        assert data.label_names[:2] == ["0.5", "1.0"]
        assert len(data.label_names) == 9


@pytest.mark.parametrize("distinct", [150, 200, 240])
def test_a_label_a_row_is_refused(tmp_path: Path, distinct: int) -> None:
    """A column of dates trained on hundreds of classes."""
    names = [f"ticket {n:03d}" for n in range(distinct)]
    rows = [{"text": f"line {n}", "label": names[n % distinct]} for n in range(240)]
    path = write(rows, tmp_path / "lines.csv")
    with pytest.raises(UserError, match=f"data.label_column=label: {distinct} distinct labels in"):
        load_data(config(path))
    kept = load_data(config(path, labels=names[:40], validation_fraction=0.5))
    assert len(kept.label_names) == 40


def test_a_small_table_of_several_classes_is_taken(tmp_path: Path) -> None:
    rows = [{"text": f"line {n}", "label": "abcdef"[n % 6]} for n in range(10)]
    data = load_data(config(write(rows, tmp_path / "l.csv"), validation_fraction=0.5))
    assert len(data.label_names) == 6


@pytest.mark.parametrize("ending", FORMATS)
def test_minus_one_is_a_class_with_a_note_or_missing(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"line {n}", "label": (-1, 1, 0)[n % 3]} for n in range(240)]
    path = write(rows, tmp_path / f"lines.{ending}")
    data = load_data(config(path))
    assert data.label_names == ["-1", "0", "1"]
    assert any("−1 is taken for a class" in note for note in data.notes)
    data = load_data(config(path, missing_label=-1))
    assert data.label_names == ["0", "1"]
    assert dict(data.dropped) == {"no label": 80}
    assert not data.notes


def test_a_test_split_of_minus_one_alone_has_no_labels(tmp_path: Path) -> None:
    rows = [{"text": f"line {n}", "label": n % 2} for n in range(60)]
    hidden = [{"text": f"test {n}", "label": -1} for n in range(20)]
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(hidden)}
    ).save_to_disk(tmp_path / "hub")
    data = load_data(config(tmp_path / "hub", test_split="test"))
    assert data.label_names == ["0", "1"]
    assert len(data.splits["test"]) == 0


def test_labels_that_differ_by_blanks_or_case(tmp_path: Path) -> None:
    """ "billing " beside "Billing": six classes of four queues."""
    labels = ["billing ", "Billing", "billing", " sales", "sales", "Sales", "help"]
    rows = [{"text": f"line {n}", "label": labels[n % 7]} for n in range(210)]
    data = load_data(config(write(rows, tmp_path / "lines.csv")))
    assert data.label_names == ["Billing", "Sales", "billing", "help", "sales"]
    assert [note.split(": ")[1] for note in data.notes] == [
        "'Billing', 'billing' are 2 classes that differ by case or blanks alone",
        "'Sales', 'sales' are 2 classes that differ by case or blanks alone",
    ]


def test_labels_that_never_occur_name_those_that_do(tmp_path: Path) -> None:
    rows = [{"text": f"line {n}", "label": ("spam", "ham")[n % 2]} for n in range(60)]
    path = write(rows, tmp_path / "lines.csv")
    for asked in (["spam", "eggs"], ["eggs", "bacon"]):
        with pytest.raises(UserError, match=r"data.labels: .*eggs.* no row .* has ham, spam"):
            load_data(config(path, labels=asked))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("asked", [[1, 2], [1.0, 2.0], ["1", "2"]])
def test_whole_numbers_are_told_however_they_are_written(
    tmp_path: Path, ending: str, asked: list[Any]
) -> None:
    """−1.0 was no −1, and data.labels=[1,2] in no row of a column of floats."""
    rows = [{"text": f"line {n}", "label": (-1.0, 1.0, 2.0)[n % 3]} for n in range(90)]
    path = write(rows, tmp_path / f"lines.{ending}")
    assert load_data(config(path, labels=asked)).label_names == ["1.0", "2.0"]
    for missing in (-1, -1.0, "-1"):
        data = load_data(config(path, missing_label=missing))
        assert data.label_names == ["1.0", "2.0"]
        assert dict(data.dropped) == {"no label": 30}
    assert any("−1 is taken" in note for note in load_data(config(path)).notes)


@pytest.mark.parametrize(
    "dates", [[f"2020-{1 + n // 28:02d}-{1 + n % 28:02d}" for n in range(300)]]
)
@pytest.mark.parametrize("rows", [400, 3000])
def test_dates_are_no_classes(tmp_path: Path, dates: list[str], rows: int) -> None:
    table = [{"text": f"line {n}", "label": dates[n % 100]} for n in range(rows)]
    with pytest.raises(UserError, match="100 distinct dates"):
        load_data(config(write(table, tmp_path / "lines.csv")))


@pytest.mark.parametrize("missing", ["unkown", 7, [1, 2]])
def test_a_missing_label_that_never_occurs_is_told(tmp_path: Path, missing: Any) -> None:
    rows = [{"text": f"line {n}", "label": n % 2} for n in range(60)]
    with pytest.raises(UserError, match=r"data.missing_label=.* is in no row .* label has 0, 1"):
        load_data(config(write(rows, tmp_path / "l.csv"), missing_label=missing))


@pytest.mark.parametrize("words", [("true", "false"), ("TRUE", "FALSE"), ("True", "False")])
def test_true_and_false_in_any_case(tmp_path: Path, words: tuple[str, str]) -> None:
    rows = [{"text": f"line {n}", "label": words[n % 2]} for n in range(60)]
    data = load_data(config(write(rows, tmp_path / "l.csv"), labels=[False, True]))
    assert data.label_names == [words[1], words[0]]


def test_many_fractions_with_many_rows_are_classes(tmp_path: Path) -> None:
    rows = [{"text": f"line {n}", "label": (n % 40) / 4} for n in range(2400)]
    assert len(load_data(config(write(rows, tmp_path / "l.csv"))).label_names) == 40


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 1, 2], ["1", "2", "3"]),
        ([0.0, 1.0, 0.0], ["0.0", "1.0"]),
        ([True, False, True], ["False", "True"]),
        (["NA", "null", "x"], ["NA", "null", "x"]),
        ([10, 9, 2], ["2", "9", "10"]),
        ([-1, 1, -1], ["-1", "1"]),
    ],
)
def test_labels_of_any_type(tmp_path: Path, labels: list, names: list[str]) -> None:
    path = tmp_path / "lines.csv"
    frame = pd.DataFrame({"text": [f"line {i}" for i in range(300)], "label": labels * 100})
    frame.to_csv(path, index=False)
    assert load_data(config(path)).label_names == names
