from pathlib import Path

import datasets
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from sparselora.config.checks import parse_config
from sparselora.config.groups import DataConfig
from sparselora.data.load import load_data
from sparselora.data.splits import SPLITS, hash_fraction
from sparselora.errors import UserError
from sparselora.paths import CONF
from tests.conftest import sentences


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


def test_no_group_stands_on_two_sides(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    sentences(600).to_csv(path, index=False)
    data = load_data(config(path, group_column="film"))
    films = [set(data.splits[name].groups) for name in SPLITS]
    assert not films[0] & films[1]
    assert not films[0] & films[2]
    assert not films[1] & films[2]
    # Without a group, equal sentences stay together.
    data = load_data(config(path))
    texts = [set(data.splits[name].texts) for name in SPLITS]
    assert not texts[0] & texts[1]


def test_the_hash_is_stable() -> None:
    assert hash_fraction("a_grin_without_a_cat") == pytest.approx(0.6694441, abs=1e-6)
    fractions = [hash_fraction(str(index)) for index in range(2000)]
    assert 0.13 < sum(value < 0.15 for value in fractions) / 2000 < 0.17


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
    frame = pd.DataFrame({"sentence": [f"line {i}" for i in range(300)], "kind": labels * 100})
    frame.to_csv(path, index=False)
    assert load_data(config(path)).label_names == names


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
    data = load_data(config(tmp_path / "hub", validation_split="validation", test_split="test"))
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
    data = load_data(config(tmp_path, validation_split="validation", test_fraction=0.0))
    assert len(data.splits["validation"]) == 40
    assert len(data.splits["train"]) == 40


def test_split_that_is_not_there(tmp_path: Path) -> None:
    hub_dict().save_to_disk(tmp_path / "hub")
    with pytest.raises(UserError, match=r"data.validation_split=dev.*train, validation, test"):
        load_data(config(tmp_path / "hub", validation_split="dev"))


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


def test_critics_lines() -> None:
    data = load_data(
        DataConfig(
            name="critics",
            path="asset:critics",
            label_column="category",
            group_column="movie_name",
            labels=["rotten", "fresh"],
            drop_duplicates=True,
        )
    )
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sum(sizes.values()) == 12_752
    labels = [label for split in data.splits.values() for label in split.labels]
    assert sum(labels) / len(labels) == pytest.approx(0.578, abs=5e-4)
    assert sizes["train"] / 12_752 == pytest.approx(0.70, abs=0.03)
    films = [set(split.groups) for split in data.splits.values()]
    assert sum(map(len, films)) == len(set.union(*films)) == 507


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


def prompts_config(path: Path, prompt: str = "{line}?", answer: str = "{kind}") -> DataConfig:
    return DataConfig(name="p", path=str(path), prompt_template=prompt, completion_template=answer)


def test_templates_make_prompts_and_completions(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    frame = pd.DataFrame({"line": [f"line {n}" for n in range(40)], "kind": ["a", "b"] * 20})
    frame.loc[3, "kind"] = None
    frame.to_csv(path, index=False)
    loaded = load_data(prompts_config(path, "Say {line} {{once}}:"), prompts=True)
    assert loaded.dropped_rows == 1
    assert loaded.label_names == []
    train = loaded.splits["train"]
    assert train.labels == []
    assert train.completions is not None
    assert all(
        text == f"Say line {name.split(':')[1]} {{once}}:"
        for text, name in zip(train.texts, train.example_ids, strict=True)
    )
    assert set(train.completions) == {"a", "b"}
    sample = loaded.splits["train"].sample(5)
    assert len(sample) == 5
    assert sample.example_ids == loaded.splits["train"].sample(5).example_ids
    assert set(sample.example_ids) < set(train.example_ids)
    assert len(train.sample(10_000)) == len(train)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{missing}", "no such column"),
        ("{", "column"),
        ("{}", "column's name alone"),
        ("{line.upper}", "column's name alone"),
        ("{line:>9}", "column's name alone"),
    ],
)
def test_a_wrong_template_names_its_key(tmp_path: Path, template: str, reason: str) -> None:
    path = tmp_path / "lines.csv"
    pd.DataFrame({"line": ["a", "b"], "kind": ["x", "y"]}).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"data.prompt_template") as raised:
        load_data(prompts_config(path, template), prompts=True)
    assert reason in str(raised.value)
