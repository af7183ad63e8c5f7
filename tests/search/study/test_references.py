import json
from pathlib import Path

from sparselora.search.study.references import DENSE_REFERENCES, hand_out
from tests.search.study.studies import opened, record


def test_one_dense_reference_for_all_processes(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    record(tmp_path / "first")
    record(tmp_path / "second", dense_reference_ms=15.0, ms_per_step=10.0)
    with study.storage.locked():
        first = study.outcome(tmp_path / "first")
        second = study.outcome(tmp_path / "second")
    assert first is not None
    assert second is not None
    assert (first.values, second.values) == ([0.75, 8.0], [0.75, 8.0])


def test_the_later_record_is_brought_to_the_earlier_ones_figure(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    record(tmp_path / "first")
    record(tmp_path / "job" / "seed_1", dense_reference_ms=15.0, timing={"speedup": 2.0})
    record(tmp_path / "job" / "seed_2", dense_reference_key="another", dense_reference_ms=3.0)
    with study.storage.locked():
        study.outcome(tmp_path / "first")
        study.outcome(tmp_path / "job")
    one, two = (
        json.loads((tmp_path / "job" / f"seed_{seed}" / "record.json").read_text())
        for seed in (1, 2)
    )
    assert (one["dense_reference_ms"], one["ms_per_step"]) == (12.0, 6.0)
    assert (two["dense_reference_ms"], two["ms_per_step"]) == (3.0, 8.0)
    assert study.study.user_attrs[DENSE_REFERENCES] == {"k": 12.0, "another": 3.0}


def test_what_the_study_knows_is_there_for_its_runs(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    hand_out(study.study, tmp_path / "empty", [])
    assert not (tmp_path / "empty").exists()
    study.study.set_user_attr(DENSE_REFERENCES, {"k": 12.0})
    hand_out(study.study, tmp_path / "sweep", [(0.8, 70.0)])
    texts = [path.read_text() for path in sorted((tmp_path / "sweep").rglob("*.json"))]
    assert any("12.0" in text for text in texts)
    assert any("70.0" in text for text in texts)
