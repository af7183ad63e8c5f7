"""A cell is the same text whatever the format and the kind of column that held it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparselora.data.cells import texts
from sparselora.data.load import load_data
from sparselora.data.tables import read_table
from sparselora.errors import UserError
from tests.data.files import FORMATS, config, examples, write


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical(["up", "down"] * 30),
        pd.array([1, 0] * 30, dtype="Int64"),
        pd.array([True, False] * 30, dtype="boolean"),
        pd.array(["up", "down"] * 30, dtype="string"),
        np.array([1, 0] * 30, dtype=np.int8),
        pd.array([Decimal("1"), Decimal("0")] * 30, dtype=pd.ArrowDtype(pa.decimal128(5, 0))),
    ],
)
@pytest.mark.parametrize("role", ["text", "label", "group"])
def test_columns_of_any_kind_in_any_role(tmp_path: Path, column: Any, role: str) -> None:
    frame = pd.DataFrame(
        {
            "text": [f"line {n}" for n in range(60)],
            "label": ["a", "b"] * 30,
            "group": [f"g {n}" for n in range(60)],
        }
    )
    frame["text" if role == "text" else role] = column
    group = {} if role == "text" else {"group_column": "group"}
    if role != "label" and role != "text":
        frame["group"] = column
    frame.to_parquet(tmp_path / "lines.parquet")
    found = read_table(tmp_path / "lines.parquet")[role]
    expected = [str(value) for value in pd.Series(column).tolist()]
    assert texts(found, role, "lines") == expected
    if role == "label":  # two groups, or two texts, cannot fill three splits
        assert load_data(config(tmp_path / "lines.parquet", **group)).label_names == sorted(
            set(expected)
        )


BAD_CELLS: dict[str, list[Any]] = {
    "lists": [["a", "b"], ["c"]] * 30,
    "mappings": [{"a": 1}, {"a": 2}] * 30,
    "bytes": [b"a", b"b"] * 30,
    "arrays": [[1.0, 2.0], [3.0]] * 30,
}


@pytest.mark.parametrize("role", ["text", "label", "pair", "group"])
@pytest.mark.parametrize("kind", BAD_CELLS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_cells_that_are_no_text_name_the_column(
    tmp_path: Path, kind: str, role: str, ending: str
) -> None:
    if kind == "bytes" and ending == "jsonl":
        return
    rows = [
        {"text": f"line {n}", "label": "ab"[n % 2], "pair": "x", "group": str(n)} for n in range(60)
    ]
    for row, bad in zip(rows, BAD_CELLS[kind], strict=True):
        row[role] = bad
    path = write(rows, tmp_path / f"lines.{ending}")
    with pytest.raises(UserError, match=f"data.{role}_column={role}: a cell of .* is a"):
        load_data(config(path, pair_column="pair", group_column="group"))


def test_narrow_floats_read_as_they_were_written(tmp_path: Path) -> None:
    values = np.array([0.1, 0.5, 2.0] * 20, dtype=np.float32)
    frame = pd.DataFrame({"text": [f"line {n}" for n in range(60)], "label": values})
    frame.to_parquet(tmp_path / "lines.parquet")
    frame.to_csv(tmp_path / "lines.csv", index=False)
    for ending in ("parquet", "csv"):
        data = load_data(config(tmp_path / f"lines.{ending}"))
        assert data.label_names == ["0.1", "0.5", "2.0"]


def test_texts_that_look_like_numbers_stay(tmp_path: Path) -> None:
    """Versions beside one empty cell lost their fraction."""
    rows: list[dict[str, Any]] = [{"text": f"{n}.0", "more": f"{n}.0"} for n in range(60)]
    rows[9]["more"] = None
    for ending in FORMATS:
        path = write(rows, tmp_path / f"lines.{ending}")
        data = load_data(
            config(path, prompt_template="{text} {more}", completion_template="x"), True
        )
        assert examples(data)["all:9"][1] == "9.0 "
        assert examples(data)["all:5"][1] == "5.0 5.0"
