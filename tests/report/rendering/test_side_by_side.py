import json
from pathlib import Path

from sparselora import load_records
from sparselora.report.rendering.side_by_side import side_by_side
from tests.report.synthetic import named_settings, run


def test_settings_of_both_are_paired(tmp_path: Path) -> None:
    one, two = named_settings(tmp_path / "a"), tmp_path / "b"
    for seed in (1, 2, 3):
        run(two / f"{seed}", "optimized", seed, accuracy=0.79, speedup=1.9)
    frame = side_by_side((load_records(one), load_records(two)))
    assert frame["setting"].tolist() == ["optimized"]
    row = frame.iloc[0]
    assert row["accuracy_a"] == "77.00"
    assert row["accuracy_b"] == "79.00"
    assert row["points"].startswith("+2.00 (+")
    assert row["seeds"] == 3
    assert row["speedup_b"].startswith("1.90 (")
    assert row["ms_a"] == f"{100 / 1.8:.1f}"


def test_times_of_two_devices_never_stand_together(tmp_path: Path) -> None:
    run(tmp_path / "a" / "1", "optimized")
    run(tmp_path / "b" / "1", "optimized", device="cpu B")
    frame = side_by_side((load_records(tmp_path / "a"), load_records(tmp_path / "b")))
    row = frame.iloc[0]
    assert row["device"] == "A cpu A, 1 thread, B cpu B, 1 thread"
    assert row["ms_a"] == row["ms_b"] == "–"
    assert row["speedup_a"].startswith("1.80")


def test_other_examples_have_no_difference(tmp_path: Path) -> None:
    import pandas as pd

    run(tmp_path / "a" / "1")
    path = run(tmp_path / "b" / "1") / "predictions.parquet"
    pd.read_parquet(path).iloc[5:].to_parquet(path, index=False)
    frame = side_by_side((load_records(tmp_path / "a"), load_records(tmp_path / "b")))
    assert frame["points"].tolist() == ["other examples"]


def test_nothing_in_common_is_empty(tmp_path: Path) -> None:
    run(tmp_path / "a" / "1", "optimized")
    run(tmp_path / "b" / "1", "fallback")
    assert side_by_side((load_records(tmp_path / "a"), load_records(tmp_path / "b"))).empty


def test_a_key_that_one_commit_alone_knows_parts_nothing(tmp_path: Path) -> None:
    content = json.loads((run(tmp_path / "a" / "1") / "record.json").read_text())
    content["config"]["new_key"] = 0
    run(tmp_path / "b" / "1", config=content["config"])
    frame = side_by_side((load_records(tmp_path / "a"), load_records(tmp_path / "b")))
    assert frame["setting"].tolist() == ["dense"]


def test_settings_that_differ_in_what_the_other_does_not_know(tmp_path: Path) -> None:
    # All of B's were one to A, and the last of them stood beside A's.
    one = json.loads((run(tmp_path / "a" / "1", "optimized") / "record.json").read_text())
    for value, label in ((0, "optimized"), (1, "optimized new 1"), (2, "optimized new 2")):
        config = one["config"] | {"new_key": value}
        run(tmp_path / "b" / f"{value}", label, config=config, speedup=1.1 + value)
    both = load_records(tmp_path / "a"), load_records(tmp_path / "b")
    for frame, speedup in (
        (side_by_side(both), "speedup_b"),
        (side_by_side((both[1], both[0])), "speedup_a"),
    ):
        assert frame["setting"].tolist() == ["optimized"]
        assert frame[speedup].iloc[0].startswith("1.10")
