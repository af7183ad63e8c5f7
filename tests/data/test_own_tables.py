"""Tables of a user's own, through the command: what is left out is said, what is wrong is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome, sentences

Invoke = Callable[..., Outcome]


def own(overrides: list[str], path: Path) -> list[str]:
    return [each for each in overrides if not each.startswith("data.path=")] + [
        f"data.path={path}",
        "svd_rank=3",
        "train.max_steps=2",
        "measure.eval_every=null",
    ]


def test_what_is_left_out_and_why_stands_in_the_runs_table(
    invoke: Invoke, tiny_overrides: list[str], tmp_path: Path
) -> None:
    frame = sentences(240)
    frame.loc[[3, 5], "kind"] = None
    frame.loc[8, "sentence"] = None
    frame.loc[9:40:2, "kind"] = "Up"
    path = tmp_path / "lines.csv"
    frame.to_csv(path, index=False)
    outcome = invoke(*own(tiny_overrides, path))
    assert outcome.code == 0, outcome.err
    table = " ".join(outcome.out.replace("│", " ").split())
    assert "3 left out (1 no text, 2 no label)" in table
    note = "'Up', 'up' are 2 classes that differ by case or blanks alone"
    assert note in table
    assert note in outcome.err  # before it trains, too
    record = json.loads(next(outcome.folder.rglob("record.json")).read_text())
    assert record["data"]["dropped"] == {"no text": 1, "no label": 2}
    assert record["data"]["dropped_rows"] == 3


BAD = {
    "swallowed.tsv": 'sentence\tkind\tfilm\n"a\tup\tf\nb\tdown\tg\n"c\tup\th\n',
    "ragged.csv": "sentence,kind,film\na,up,f,x\n",
    "lists.jsonl": '{"sentence": ["a"], "kind": "up", "film": "f"}\n',
    "latin.csv": "sentence,kind,film\ncaf\xe9,up,f\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_one_line(
    invoke: Invoke, tiny_overrides: list[str], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name].encode("latin-1"))
    outcome = invoke(*own(tiny_overrides, path))
    assert outcome.code == 2
    assert len(outcome.message) == 1
    assert outcome.message[0].startswith("error: data.")
