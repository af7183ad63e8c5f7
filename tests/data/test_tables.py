"""Tables as people have them: the same rows in every format, or one line that says what is wrong."""

import csv
import json
import string
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparselora.config.groups import DataConfig
from sparselora.data.cells import texts
from sparselora.data.load import LoadedData, load_data
from sparselora.data.tables import read_table
from sparselora.errors import UserError

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


def config(path: Path, **changes: Any) -> DataConfig:
    return DataConfig(name="mine", path=str(path), **changes)


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    """Each format by a writer that keeps whole numbers whole."""
    names = list(rows[0])
    ending = path.suffix[1:]
    if ending in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if ending == "csv" else "\t")
            writer.writerow(names)
            writer.writerows(
                ["" if row[name] is None else row[name] for name in names] for row in rows
            )
    elif ending == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    return path


def examples(data: LoadedData) -> dict[str, tuple[Any, ...]]:
    found = {}
    for name, split in data.splits.items():
        for row, example in enumerate(split.example_ids):
            label = data.label_names[split.labels[row]] if split.labels else None
            pair = split.pairs[row] if split.pairs else None
            answer = split.completions[row] if split.completions else None
            found[example] = (name, split.texts[row], pair, label, answer, split.groups[row])
    return found


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


QUOTED_LINES = [f"line {n}\t{'ab'[n % 2]}" for n in range(40)]


def tsv(folder: Path, lines: list[str], ending: str = "tsv") -> Path:
    path = folder / f"lines.{ending}"
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("first", "second"), [(3, 25), (0, 1), (0, 39)])
@pytest.mark.parametrize("closing", ["", '"'])
def test_two_quotes_that_would_swallow_the_lines_between(
    tmp_path: Path, first: int, second: int, closing: str
) -> None:
    """40 lines were 18 rows, and none was said to be dropped."""
    lines = list(QUOTED_LINES)
    lines[first] = f'"{lines[first]}'
    text, label = lines[second].split("\t")
    lines[second] = f"{text}{closing}\t{label}" if closing else f'"{lines[second]}'
    path = tsv(tmp_path, lines)
    with pytest.raises(UserError, match=f"line {first + 3} would be part") as raised:
        load_data(config(path, quoting="auto"))
    assert "data.quoting=csv or data.quoting=none" in str(raised.value)
    data = load_data(config(path, quoting="none"))
    assert len(examples(data)) == 40
    assert any(text.startswith('"') for _, text, *_ in examples(data).values())


def test_one_quote_that_would_swallow_the_rest(tmp_path: Path) -> None:
    lines = list(QUOTED_LINES)
    lines[7] = '"\ta'
    with pytest.raises(UserError) as raised:
        load_data(config(tsv(tmp_path, lines)))
    assert str(raised.value).count("data.path=") == 1
    assert "line 10 would be part" in str(raised.value)


@pytest.mark.parametrize("ragged", ["line x", "line x\ta\t", "line\tx\ta"])
def test_a_ragged_line_does_not_hide_swallowed_rows(tmp_path: Path, ragged: str) -> None:
    """One of another length made 60 rows 45, with none dropped."""
    lines = [*QUOTED_LINES, *QUOTED_LINES]
    lines[10], lines[20] = f'"{lines[10]}', lines[20].replace("\t", '"\t')
    lines[15] = ragged
    with pytest.raises(UserError, match="line 13 would be part"):
        load_data(config(tsv(tmp_path, lines)))


def test_a_quote_that_pairs_across_two_cells_is_a_character(tmp_path: Path) -> None:
    lines = list(QUOTED_LINES)
    lines[7] = '"quoted start\ta"'
    lines[8] = '"whole"\ta'
    assert examples(load_data(config(tsv(tmp_path, lines))))["all:7"][1] == '"quoted start'


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


def test_narrow_floats_read_as_they_were_written(tmp_path: Path) -> None:
    values = np.array([0.1, 0.5, 2.0] * 20, dtype=np.float32)
    frame = pd.DataFrame({"text": [f"line {n}" for n in range(60)], "label": values})
    frame.to_parquet(tmp_path / "lines.parquet")
    frame.to_csv(tmp_path / "lines.csv", index=False)
    for ending in ("parquet", "csv"):
        data = load_data(config(tmp_path / f"lines.{ending}"))
        assert data.label_names == ["0.1", "0.5", "2.0"]


def test_texts_of_several_lines_in_quotes_are_one_row(tmp_path: Path) -> None:
    rows = [
        {"text": f'first {n}\nsecond, "quoted"\n\nlast', "label": "ab"[n % 2]} for n in range(60)
    ]
    for ending in ("csv", "tsv"):
        data = load_data(config(write(rows, tmp_path / f"lines.{ending}")))
        assert {text for _, text, *_ in examples(data).values()} == {row["text"] for row in rows}


@pytest.mark.parametrize("text", ['"Great" film', 'a 12" record', 'say "so"', '""x'])
def test_quotes_inside_of_a_text_stay(tmp_path: Path, text: str) -> None:
    lines = list(QUOTED_LINES)
    lines[7] = f"{text}\ta"
    data = load_data(config(tsv(tmp_path, lines)))
    assert examples(data)["all:7"][1] == text


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


MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def chats(rows: int = 60, parts: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "question "},
                        {"type": "text", "text": str(n)},
                    ]
                    if parts
                    else f"question {n}",
                },
                {"role": "assistant", "content": f"answer {n}"},
            ]
        }
        for n in range(rows)
    ]


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_messages_are_prompts_and_answers(tmp_path: Path, ending: str) -> None:
    parts = ending == "jsonl"
    data = load_data(config(write(chats(parts=parts), tmp_path / f"chats.{ending}")), True)
    for split in data.splits.values():
        for example, chat, answer in zip(
            split.example_ids, split.chats, split.completions, strict=True
        ):
            number = example.split(":")[1]
            assert [message["role"] for message in chat] == ["system", "user"]
            assert chat[1]["content"] == f"question {number}"
            assert answer == f"answer {number}"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("conversational", [True, False])
def test_prompts_with_completions_load_as_they_are(
    tmp_path: Path, ending: str, conversational: bool
) -> None:
    rows: list[dict[str, Any]] = []
    for n in range(60):
        question, answer = f"question {n}", f"answer {n}"
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            if conversational
            else {"prompt": question, "completion": answer}
        )
    data = load_data(config(write(rows, tmp_path / f"pairs.{ending}")), True)
    found = examples(data)
    assert {text for _, text, *_ in found.values()} == {f"question {n}" for n in range(60)}
    assert {values[4] for values in found.values()} == {f"answer {n}" for n in range(60)}
    assert (data.splits["train"].chats is not None) == conversational


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([MESSAGES[0]], "ends with a message of user"),
        ([{"from": "human", "value": "a"}], "role: user"),
        ("a text", "is a str"),
        ([{"role": "user", "content": None}], "role: user"),
        ([{"role": "user", "content": [{"type": "image"}]}], "role: user"),
    ],
)
def test_chats_of_another_shape_are_one_line(tmp_path: Path, bad: Any, reason: str) -> None:
    rows = chats()
    rows[5]["messages"] = bad
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="row 5: messages") as raised:
        load_data(config(tmp_path / "chats.jsonl"), True)
    assert reason in str(raised.value)


def test_without_templates_or_chats_the_columns_are_named(tmp_path: Path) -> None:
    path = write([{"question": "a", "answer": "b"}] * 5, tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"data.prompt_template=null: .*has question, answer"):
        load_data(config(path), True)


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
        load_data(config(tmp_path, **splits))
    data = load_data(config(tmp_path, quoting="none", **splits))
    assert sum(map(len, data.splits.values())) == 40 * len(layout)
    with pytest.raises(UserError, match=r"data.validation_split=dev: no such file .* train.tsv"):
        load_data(config(tmp_path, quoting="none", validation_split="dev"))


def test_one_stray_quote_does_not_leave_all_others_in(tmp_path: Path) -> None:
    lines = [f'"line {n}","{n % 2}"' for n in range(40)]
    lines[7] = '"he said "hi" ok","1"'
    path = tmp_path / "lines.csv"
    path.write_text("text,label\n" + "\n".join(lines))
    with pytest.raises(UserError, match="its quotes do not pair as in CSV"):
        load_data(config(path))
    data = load_data(config(path, quoting="csv"))
    assert data.label_names == ["0", "1"]
    assert examples(data)["all:8"][1] == "line 8"


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


@pytest.mark.parametrize("blank", ["", "  ", None])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_blank_group_is_none(tmp_path: Path, blank: str | None, ending: str) -> None:
    rows = [{"text": f"line {n}", "label": "ab"[n % 2], "group": blank} for n in range(60)]
    rows[0]["group"] = "g"
    data = load_data(config(write(rows, tmp_path / f"l.{ending}"), group_column="group"))
    assert len({values[5] for values in examples(data).values()}) == 60


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


def test_tables_as_other_tools_write_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"line {n}" for n in range(60)], "label": ["a", "b"] * 30})
    frame.to_json(tmp_path / "columns.json")
    frame.to_json(tmp_path / "lists.json", orient="records", lines=True)
    (tmp_path / "dict.json").write_text(json.dumps(frame.to_dict("list")))
    views = pa.table({name: pa.array(frame[name].tolist(), pa.string_view()) for name in frame})
    pq.write_table(views, tmp_path / "views.parquet")
    for name in ("columns.json", "lists.json", "dict.json", "views.parquet"):
        assert len(examples(load_data(config(tmp_path / name)))) == 60


def test_many_fractions_with_many_rows_are_classes(tmp_path: Path) -> None:
    rows = [{"text": f"line {n}", "label": (n % 40) / 4} for n in range(2400)]
    assert len(load_data(config(write(rows, tmp_path / "l.csv"))).label_names) == 40


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([MESSAGES[0], MESSAGES[1] | {"tool_calls": [{"id": "1"}]}], "tool_calls"),
        ([MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": [1]}], "tool_calls"),
    ],
)
def test_tool_calls_are_refused_by_name(tmp_path: Path, messages: Any, reason: str) -> None:
    """They were left out of the prompt without a word."""
    rows = [*chats(20), {"messages": messages}]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=reason):
        load_data(config(tmp_path / "chats.jsonl"), True)


def test_a_completion_of_the_user_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": [MESSAGES[0]], "completion": [MESSAGES[0]]}] * 5
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="completion holds messages of user"):
        load_data(config(tmp_path / "pairs.jsonl"), True)
