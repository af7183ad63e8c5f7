import json
from pathlib import Path

from sparselora.records.reference import REFERENCE_NAME, dense_reference, write_references


def test_the_first_figure_is_every_later_runs(tmp_path: Path) -> None:
    assert dense_reference(tmp_path, "a", 12.0) == 12.0
    assert dense_reference(tmp_path, "a", 99.0) == 12.0
    assert dense_reference(tmp_path, "b", 7.0) == 7.0
    assert json.loads((tmp_path / REFERENCE_NAME).read_text()) == {"a": 12.0, "b": 7.0}


def test_figures_of_elsewhere_take_the_place_of_the_folders_own(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    write_references(folder, {"a": 1.0})
    dense_reference(folder, "b", 7.0)
    write_references(folder, {"a": 2.0})
    assert dense_reference(folder, "a", 9.0) == 2.0
    assert dense_reference(folder, "b", 9.0) == 7.0
