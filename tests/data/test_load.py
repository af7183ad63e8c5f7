from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from sparselora.config.checks import parse_config
from sparselora.config.groups import DataConfig
from sparselora.data.load import load_data
from sparselora.data.splits import SPLITS
from sparselora.paths import CONF
from tests.conftest import sentences
from tests.data.files import FORMATS, examples, write
from tests.data.files import config as table


def config(path: Path | str, **changes: object) -> DataConfig:
    settings = {
        "name": "mine",
        "path": str(path),
        "text_column": "sentence",
        "label_column": "kind",
    }
    return DataConfig(**(settings | changes))  # type: ignore[arg-type]


WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_tables_of_every_kind_give_the_same(tmp_path: Path, suffix: str) -> None:
    frame = sentences(240)
    path = tmp_path / f"lines.{suffix}"
    WRITERS[suffix](frame, path)
    data = load_data(config(path, group_column="film"))
    assert data.label_names == ["down", "up"]
    assert data.dropped_rows == 0
    assert sum(len(data.splits[name]) for name in SPLITS) == 240
    for split in data.splits.values():
        for example_id, text, label in zip(
            split.example_ids, split.texts, split.labels, strict=True
        ):
            row = frame.iloc[int(example_id.split(":")[1])]
            assert text == row["sentence"]
            assert data.label_names[label] == row["kind"]


def test_pairs_missing_rows_and_chosen_labels(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    frame = sentences(240).assign(second=lambda rows: rows["sentence"].str.upper())
    frame.loc[0, "sentence"] = None
    frame.loc[1, "kind"] = None
    frame.loc[2, "second"] = None
    frame.loc[3, "kind"] = "other"
    frame.to_csv(path, index=False)
    data = load_data(config(path, pair_column="second", labels=["up", "down"]))
    assert data.label_names == ["up", "down"]
    assert data.dropped == {"no text": 1, "no label": 1, "another label": 1}
    assert data.dropped_rows == 3
    for split in data.splits.values():
        for name, text, pair in zip(split.example_ids, split.texts, split.pairs, strict=True):
            assert pair == ("" if name == "all:2" else text.upper())


def test_prompts_are_of_the_labels_asked_for_alone() -> None:
    """A twelfth of the embedded prompts were plots of films, to be completed with "plot"."""
    with initialize_config_dir(str(CONF)):
        config = parse_config(compose("config", ["task=causal_lm", "model=smollm2"])).data
    prompted, labelled = load_data(config, prompts=True), load_data(config)
    for name, split in prompted.splits.items():
        assert split.completions is not None
        assert set(split.completions) == {"fresh", "rotten"}
        assert split.example_ids == labelled.splits[name].example_ids
        assert split.labels == []


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_labels_and_texts_stay_as_written(tmp_path: Path, suffix: str) -> None:
    # pandas would read 007 and 7 as one number, and a column called date as a time.
    frame = pd.DataFrame(
        {
            "date": [f"2020-01-{1 + index % 28:02d} {index}" for index in range(200)],
            "kind": ["007", "7"] * 100,
        }
    )
    path = tmp_path / f"lines.{suffix}"
    WRITERS[suffix](frame, path)
    data = load_data(config(path, text_column="date"))
    assert sorted(data.label_names) == ["007", "7"]
    assert set(data.splits["train"].texts) <= set(frame["date"])


def test_a_missing_group_is_a_group_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    frame = sentences(240)
    frame.loc[::7, "film"] = None
    frame.to_csv(path, index=False)
    data = load_data(config(path, group_column="film"))
    assert sum(len(split) for split in data.splits.values()) == 240


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    sentences(240).to_csv(path, index=False)
    assert len(load_data(config(path)).splits["train"]) > 50
    sentences(120).to_csv(path, index=False)
    assert sum(len(split) for split in load_data(config(path)).splits.values()) == 120


@pytest.mark.parametrize("blank", ["", "  ", None])
@pytest.mark.parametrize("ending", FORMATS)
def test_a_blank_group_is_none(tmp_path: Path, blank: str | None, ending: str) -> None:
    rows = [{"text": f"line {n}", "label": "ab"[n % 2], "group": blank} for n in range(60)]
    rows[0]["group"] = "g"
    data = load_data(table(write(rows, tmp_path / f"l.{ending}"), group_column="group"))
    assert len({values[5] for values in examples(data).values()}) == 60
