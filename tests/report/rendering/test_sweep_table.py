import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from sparselora import load_records
from sparselora.report.rendering.sweep_table import print_sweep, sweep_table
from tests.report.synthetic import named_settings, run


def printed(root: Path, width: int = 300) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_sweep(sweep_table(load_records(root)), console, "title")
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_difference_to_dense_is_paired_by_seed(tmp_path: Path) -> None:
    for seed, dense, sparse in ((1, 0.80, 0.79), (2, 0.82, 0.83)):
        run(tmp_path / f"d{seed}", seed=seed, accuracy=dense)
        run(tmp_path / f"s{seed}", "optimized", seed, accuracy=sparse)
    run(tmp_path / "s3", "optimized", 3, accuracy=0.9)
    frame = sweep_table(load_records(tmp_path)).set_index(["label", "seed"])
    assert frame.loc[("optimized", 1), "delta_dense"] == pytest.approx(-0.01)
    assert frame.loc[("optimized", 2), "delta_dense"] == pytest.approx(0.01)
    assert pd.isna(frame.loc[("optimized", 3), "delta_dense"])


def test_a_run_of_another_budget_is_no_reference(tmp_path: Path) -> None:
    run(tmp_path / "dense", accuracy=0.8)
    config = pd.read_json(run(tmp_path / "x" / "a") / "record.json", typ="series")["config"]
    longer = {**config, "train": {"max_steps": 50, "threads": 1}, "ffn_sparsity": 0.5}
    run(tmp_path / "longer", "optimized", accuracy=0.9, config=longer)
    # A sparse run that rounded to nothing left out is not plain LoRA.
    run(tmp_path / "rounded", "rounded", accuracy=0.7, ffn_sparsity=0.0)
    frame = sweep_table(load_records(tmp_path)).set_index("label")
    assert pd.isna(frame.loc["optimized", "delta_dense"])
    assert frame.loc["rounded", "delta_dense"] == pytest.approx(-0.1)


def test_rows_of_any_swept_key_can_be_told_apart(tmp_path: Path) -> None:
    for rate in ("1e-3", "2e-4"):
        run(tmp_path / rate, overrides=["seed=1", f"train.learning_rate={rate}"])
    varied = sweep_table(load_records(tmp_path))["varied"]
    assert sorted(varied) == ["train.learning_rate=1e-3", "train.learning_rate=2e-4"]
    assert "train.learning_rate=2e-4" in printed(tmp_path)


def test_time_to_the_dense_runs_accuracy(tmp_path: Path) -> None:
    timing = {"dense_speedup": 1.0, "speedup": 2.0}
    both = {"timing": timing, "calibration_seconds": 2.0, "steps": {"dense": 1, "sparse": 4}}
    run(tmp_path / "dense", accuracy=0.8)
    reached = [{"step": 3, "accuracy": 0.7}, {"step": 5, "accuracy": 0.85}]
    run(tmp_path / "sparse", "optimized", accuracy=0.85, evaluations=reached, **both)
    below = [{"step": 5, "accuracy": 0.79}]
    run(tmp_path / "below", "fallback", accuracy=0.79, evaluations=below, **both)
    frame = sweep_table(load_records(tmp_path)).set_index("label")
    # 2 s, one dense step of 100 ms, four sparse ones of 50 ms.
    assert frame.loc["optimized", "seconds_to_dense_accuracy"] == pytest.approx(2.3)
    assert pd.isna(frame.loc["fallback", "seconds_to_dense_accuracy"])


def test_names_from_configs_are_printed_as_they_are(tmp_path: Path) -> None:
    run(tmp_path / "one", "[bold]x[/bold] [red")
    assert "[bold]x[/bold] [red" in printed(tmp_path)


def test_the_best_comes_first_and_what_did_not_finish_last(tmp_path: Path) -> None:
    named_settings(tmp_path, seeds=1)
    run(tmp_path / "failed", "broken", accuracy=0.99, status="failed", error="no memory")
    frame = sweep_table(load_records(tmp_path))
    assert frame["label"].tolist() == ["dense", "fallback", "optimized", "broken"]
    assert "failed: " in printed(tmp_path)
    assert "no memory" in printed(tmp_path)


def test_a_narrow_terminal_has_fewer_columns_but_all_settings(tmp_path: Path) -> None:
    named_settings(tmp_path, seeds=1)
    wide, narrow = printed(tmp_path), printed(tmp_path, width=90)
    assert "of the bound" in wide
    assert "of the bound" not in narrow
    for text in (wide, narrow):
        assert "× stock" in text
        assert "optimized" in text


def test_what_may_not_be_compared_is_said(tmp_path: Path) -> None:
    run(tmp_path / "a")
    assert "Several devices" not in printed(tmp_path)
    run(tmp_path / "b", device="cpu B", dense_reference_ms=120.0)
    assert "Several devices" in printed(tmp_path)
    assert "compare × stock" in printed(tmp_path)
