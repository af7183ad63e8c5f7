"""Quotes that could mean two things are the user's to say; no row is swallowed without a word."""

from pathlib import Path

import pytest

from sparselora.data.load import load_data
from sparselora.errors import UserError
from tests.data.files import QUOTED_LINES, config, examples, tsv, write


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
