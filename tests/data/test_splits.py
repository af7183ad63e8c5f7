"""Groups stay together, and every machine splits alike."""

from pathlib import Path

import pytest

from sparselora.config.groups import DataConfig
from sparselora.data.load import load_data
from sparselora.data.splits import SPLITS, hash_fraction
from tests.conftest import sentences


def config(path: Path | str, **changes: object) -> DataConfig:
    settings = {
        "name": "mine",
        "path": str(path),
        "text_column": "sentence",
        "label_column": "kind",
    }
    return DataConfig(**(settings | changes))  # type: ignore[arg-type]


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
