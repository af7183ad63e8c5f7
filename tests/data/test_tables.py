"""Tables as people have them: the same rows in every format, or one line that says what is wrong."""

import csv
import json
import string
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparselora.data.load import load_data
from sparselora.data.tables import read_table
from sparselora.errors import UserError
from tests.data.files import FORMATS, config, examples, write

WORD = st.text(alphabet=string.ascii_letters + " ,;\t\"'{}0äß中\u2028", min_size=1, max_size=12)


TEXT = st.none() | WORD.filter(lambda text: text.strip() != "")


NUMBER = st.none() | st.integers(-(2**60) - 1, 2**60 + 1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(TEXT, TEXT, NUMBER, st.none() | st.integers(0, 3)), min_size=4, max_size=12),
    st.booleans(),
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, drawn: list[tuple[Any, ...]], prompts: bool
) -> None:
    """A whole number beside a null was 1.0 in some, and rows with an empty pair were there in others."""
    keys = ("text", "pair", "number", "group")
    rows = [dict(zip(keys, values, strict=True)) for values in drawn]
    # Enough of two classes that the splits are not empty.
    rows += [
        {"text": f"line {n}", "pair": None, "number": n % 2, "group": 100 + n} for n in range(60)
    ]
    changes: dict[str, Any] = {"group_column": "group"}
    if prompts:
        changes |= {"prompt_template": "{text}+{pair}=", "completion_template": "{number}"}
    else:
        changes |= {"pair_column": "pair", "label_column": "number", "labels": [0, 1]}
    results = []
    for ending in FORMATS:
        path = write(rows, tmp_path / f"lines.{ending}")
        # Where a drawn text reads as two tables, the user says which.
        quoting = {"quoting": "csv"} if ending in ("csv", "tsv") else {}
        data = load_data(config(path, **changes, **quoting), prompts)
        results.append((examples(data), data.label_names, dict(data.dropped)))
    for result in results[1:]:
        assert result == results[0]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("big", [2**60 + 1, 2**53 + 1, 7])
def test_whole_numbers_stay_whole_beside_a_null(tmp_path: Path, ending: str, big: int) -> None:
    """`0+1.0=`, and 2^60 + 1 was another number."""
    rows = [{"a": n, "b": big, "c": n + 1, "d": big + n // 2} for n in range(40)]
    rows[3]["b"] = rows[5]["c"] = rows[7]["d"] = None
    path = write(rows, tmp_path / f"sums.{ending}")
    data = load_data(
        config(path, prompt_template="{a}+{b}=", completion_template="{c}", group_column="d"), True
    )
    found = examples(data)
    assert len(found) == 39
    assert dict(data.dropped) == {"no completion": 1}
    for example, (_, text, _, _, answer, group) in found.items():
        row = int(example.split(":")[1])
        assert text == (f"{row}+=" if row == 3 else f"{row}+{big}=")
        assert answer == str(row + 1)
        assert group == (text if row == 7 else str(big + row // 2))


@pytest.mark.parametrize("ending", FORMATS)
def test_pandas_floats_of_whole_numbers_beside_a_null(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame(
        {"text": [f"t {n}" for n in range(60)], "label": [0, 1, None] * 20, "group": [5, None] * 30}
    )
    path = tmp_path / f"lines.{ending}"
    writers = {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "json": lambda: frame.to_json(path, orient="records"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(path),
    }
    writers[ending]()
    data = load_data(config(path, group_column="group"))
    assert data.label_names == ["0", "1"]
    assert {values[5] for values in examples(data).values()} >= {"5"}


BAD_FILES = {
    "more fields than the header": (
        "lines.csv",
        b"text,label\na,b\nc,d,e\n",
        "line 3 has 3 fields",
    ),
    "row names": (
        "lines.csv",
        b"text,label\n1,a,b\n2,c,d\n",
        "each row has one field more than the header",
    ),
    "latin-1": ("lines.csv", "text,label\ncaf\xe9,b\n".encode("latin-1"), "no UTF-8"),
    "a NUL": ("lines.csv", b"text,label\na\0,b\n", "NUL"),
    "two columns of one name": ("lines.csv", b"text,text,label\na,b,c\n", "2 columns"),
    "a header alone": ("lines.csv", b"text,label\n", "no rows"),
    "nothing": ("lines.csv", b"", "cannot be read (it is empty)"),
    "another delimiter": ("lines.csv", b"text;label\na;b\n", "it has text;label"),
    "no JSON": ("lines.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is no JSON"),
    "a list a line": ("lines.jsonl", b'["a", "b"]\n', "an object of columns"),
    "an object": ("lines.json", b'{"text": {"0": "a"}, "label": 3}', "a list of rows"),
    "half of a character": (
        "lines.jsonl",
        b'{"text": "\\ud83d", "label": "a"}\n{"text": "b", "label": "c"}\n',
        "lone surrogate",
    ),
    "nested without end": ("lines.json", b"[" * 100_000, "cannot be read"),
    "no Parquet": ("lines.parquet", b"PAR1 or not", "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_cannot_be_a_table_is_one_line(tmp_path: Path, kind: str) -> None:
    name, content, reason = BAD_FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        load_data(config(tmp_path / name))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_harmless_is_read(tmp_path: Path) -> None:
    body = "\ufefftext,label,\r\n" + "".join(f"line {n},{'ab'[n % 2]},\r\n\r\n" for n in range(60))
    (tmp_path / "lines.csv").write_text(body, encoding="utf-8", newline="")
    assert len(examples(load_data(config(tmp_path / "lines.csv")))) == 60
    frame = read_table(tmp_path / "lines.csv")
    assert list(frame.columns) == ["text", "label", ""]
    long = "x" * 300_000
    (tmp_path / "long.csv").write_text(f"text,label\n{long},a\n")
    assert read_table(tmp_path / "long.csv")["text"][0] == long
    assert csv.field_size_limit() == 131072


def test_tables_as_other_tools_write_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"line {n}" for n in range(60)], "label": ["a", "b"] * 30})
    frame.to_json(tmp_path / "columns.json")
    frame.to_json(tmp_path / "lists.json", orient="records", lines=True)
    (tmp_path / "dict.json").write_text(json.dumps(frame.to_dict("list")))
    views = pa.table({name: pa.array(frame[name].tolist(), pa.string_view()) for name in frame})
    pq.write_table(views, tmp_path / "views.parquet")
    for name in ("columns.json", "lists.json", "dict.json", "views.parquet"):
        assert len(examples(load_data(config(tmp_path / name)))) == 60
