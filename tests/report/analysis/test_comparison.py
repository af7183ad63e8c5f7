import json
from pathlib import Path

import pandas as pd
import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import Comparison, compare
from tests.report.synthetic import ACCURACIES, named_settings, run


def rows(root: Path) -> pd.DataFrame:
    (only,) = compare(load_records(root))
    return only.table.set_index("setting")


def test_a_row_a_setting_with_means_over_seeds(tmp_path: Path) -> None:
    table = rows(named_settings(tmp_path))
    assert set(table.index) == set(ACCURACIES)
    assert table["seeds"].eq(3).all()
    for label, accuracy in ACCURACIES.items():
        assert table.loc[label, "accuracy"] == pytest.approx(accuracy)
        assert table.loc[label, "accuracy_low"] < accuracy < table.loc[label, "accuracy_high"]
    assert table.loc["optimized", "delta_points"] == pytest.approx(-3.0)
    assert table.loc["optimized", "delta_high"] < 0
    assert pd.isna(table.loc["dense", "delta_points"])
    assert table.loc["dense", "is_dense"]
    assert table.loc["optimized", "ms_per_step"] == pytest.approx(100 / 1.8)
    assert table.index[0] == "optimized"  # the fastest first
    assert table["as_good_as_best"].to_dict() == {
        "dense": True,
        "optimized": False,
        "fallback": bool(table.loc["fallback", "delta_high"] >= 0),
    }
    assert table["on_front"].all()


def test_two_seeds_are_no_claim(tmp_path: Path) -> None:
    table = rows(named_settings(tmp_path, seeds=2))
    assert table["accuracy_low"].isna().all()
    assert table["delta_low"].isna().all()
    assert table.loc["optimized", "paired_seeds"] == 2
    # Not known is not "no".
    assert table["as_good_as_best"].to_dict() == {
        "dense": True,
        "optimized": None,
        "fallback": None,
    }


def test_a_seed_that_ran_twice_counts_once_the_later_one(tmp_path: Path) -> None:
    run(tmp_path / "a", accuracy=0.5, started="2026-01-01T00:00:00.000+00:00")
    run(tmp_path / "b", accuracy=0.8, started="2026-01-02T00:00:00.000+00:00")
    table = rows(tmp_path)
    assert table["seeds"].tolist() == [1]
    assert table["accuracy"].tolist() == [pytest.approx(0.8)]


def test_another_device_or_budget_is_another_table(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", "optimized", device="cpu B")
    longer = json.loads((run(tmp_path / "c") / "record.json").read_text())
    longer["config"]["train"]["max_steps"] = 999
    (tmp_path / "c" / "record.json").write_text(json.dumps(longer))
    found = compare(load_records(tmp_path))
    assert len(found) == 3
    assert {each.device for each in found} == {"cpu A, 1 thread", "cpu B, 1 thread"}
    # Beside it there is no plain LoRA to be compared with.
    alone = next(each for each in found if each.device.startswith("cpu B"))
    assert alone.dense is None
    assert alone.table["delta_points"].isna().all()


def test_unfinished_runs_and_runs_without_accuracy_are_no_rows(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", "optimized", status="failed")
    run(tmp_path / "c", "fallback", metrics=None)
    assert rows(tmp_path).index.tolist() == ["dense"]


def test_runs_without_predictions_have_no_interval(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        run(tmp_path / f"a{seed}", seed=seed, predictions=seed != 2)
        run(tmp_path / f"b{seed}", "optimized", seed=seed)
    table = rows(tmp_path)
    assert pd.isna(table.loc["dense", "accuracy_low"])
    # Three seeds are paired by their records, two by their predictions: no interval of the wrong ones.
    assert table.loc["optimized", "paired_seeds"] == 3
    assert pd.isna(table.loc["optimized", "delta_low"])
    assert not pd.isna(table.loc["optimized", "accuracy_low"])


def test_predictions_on_other_examples_are_left_out(tmp_path: Path) -> None:
    named_settings(tmp_path)
    path = tmp_path / "optimized-2" / "predictions.parquet"
    pd.read_parquet(path).iloc[:-5].to_parquet(path, index=False)
    assert pd.isna(rows(tmp_path).loc["optimized", "delta_low"])


def test_untimed_runs_rank_by_accuracy(tmp_path: Path) -> None:
    for label in ACCURACIES:
        run(tmp_path / label, label, timed=False)
    table = rows(tmp_path)
    assert table.index.tolist() == ["dense", "fallback", "optimized"]
    assert table["ms_per_step"].isna().all()
    assert not table["on_front"].any()


def test_a_named_setting_is_found(tmp_path: Path) -> None:
    named_settings(tmp_path)
    only: Comparison = compare(load_records(tmp_path))[0]
    fallback = only.named("fallback")
    assert fallback is not None
    assert fallback["setting"] == "fallback"
    assert only.named("original") is None


def test_one_plain_lora_is_the_reference_for_mean_and_interval(tmp_path: Path) -> None:
    # Two kinds of plain LoRA: the mean was taken to one and the interval to the other.
    named_settings(tmp_path)
    for seed in (1, 2, 3):
        run(
            tmp_path / f"other{seed}",
            "plain too",
            seed,
            accuracy=0.7,
            predictions=False,
            steps={"dense": 60, "sparse": 0},
            started="2027-01-01",
        )
    (only,) = compare(load_records(tmp_path))
    row = only.table.set_index("setting").loc["optimized"]
    assert row["delta_points"] == pytest.approx(-3.0)
    assert row["delta_low"] < row["delta_points"] < row["delta_high"]
    assert only.dense is not None
    assert only.dense["setting"] == "dense"
    assert only.table["is_dense"].sum() == 2


def test_threads_are_never_mixed(tmp_path: Path) -> None:
    for threads in (1, 16):
        content = json.loads((run(tmp_path / f"t{threads}") / "record.json").read_text())
        content["provenance"]["threads"] = threads
        (tmp_path / f"t{threads}" / "record.json").write_text(json.dumps(content))
    assert [each.table["seeds"].tolist() for each in compare(load_records(tmp_path))] == [[1], [1]]


def test_best_has_three_seeds_where_any_has(tmp_path: Path) -> None:
    # A lucky run of one seed took every other setting's mark away.
    named_settings(tmp_path)
    run(tmp_path / "lucky", "lucky", accuracy=0.9, experiment="")
    table = rows(tmp_path)
    assert table.index[table["is_best"]].tolist() == ["dense"]
    assert table["as_good_as_best"].to_dict() == {
        "dense": True,
        "optimized": False,
        "fallback": bool(table.loc["fallback", "delta_high"] >= 0),
        "lucky": None,
    }


def test_predictions_of_another_evaluation_give_no_interval(tmp_path: Path) -> None:
    # The mean was the record's and the interval the predictions', one outside the other.
    named_settings(tmp_path)
    path = tmp_path / "optimized-1" / "record.json"
    content = json.loads(path.read_text())
    content["metrics"]["validation"]["accuracy"] = 0.4
    path.write_text(json.dumps(content))
    (tmp_path / "fallback-2" / "predictions.parquet").unlink()
    (comparison,) = compare(load_records(tmp_path))
    table = comparison.table.set_index("setting")
    assert pd.isna(table.loc["optimized", "delta_low"])
    assert pd.isna(table.loc["fallback", "accuracy_low"])
    problems = comparison.limited.set_index(
        comparison.limited["folder"].map(lambda folder: Path(folder).name)
    )["problem"]
    assert problems["optimized-1"] == "no interval: its predictions say 0.7700, its record 0.4000"
    assert "missing" in problems["fallback-2"]
    assert len(problems) == 2


def test_a_key_that_came_later_has_its_default(tmp_path: Path) -> None:
    content = json.loads((run(tmp_path / "dense") / "record.json").read_text())
    config = content["config"]
    newer = config | {"task": {"name": "classification", "chat_template": True}}
    newer["model"] = config["model"] | {"quantization": "none", "gguf_file": None}
    newer |= {"ffn_sparsity": 0.5, "sink_tokens": 0}
    run(tmp_path / "sparse", "optimized", config=newer)
    table = rows(tmp_path)
    assert table.loc["optimized", "paired_seeds"] == 1


def test_tables_of_two_budgets_are_told_apart(tmp_path: Path) -> None:
    content = json.loads((run(tmp_path / "a") / "record.json").read_text())
    config = content["config"] | {"train": {"max_steps": 7, "threads": 1}}
    run(tmp_path / "b", config=config)
    titles = {comparison.title for comparison in compare(load_records(tmp_path))}
    assert titles == {f"m on d, cpu A, 1 thread, train.max_steps={steps}" for steps in (60, 7)}
