from pathlib import Path
from typing import Any

import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.charts.tradeoff import accuracy_by_time, speedup_by_bound
from tests.report.synthetic import ACCURACIES, SPEEDUPS, named_settings, run


def only(root: Path) -> Comparison:
    (comparison,) = compare(load_records(root))
    return comparison


def points(chart: Any, key: str) -> dict[str, dict[str, Any]]:
    datasets = chart.to_dict(validate=False)["datasets"].values()
    return {
        row["setting"]: row for rows in datasets for row in rows if key in row and "setting" in row
    }


def test_points_are_the_table_in_percent_and_milliseconds(tmp_path: Path) -> None:
    chart = accuracy_by_time(only(named_settings(tmp_path)))
    assert chart is not None
    shown = points(chart, "accuracy_low")
    assert shown.keys() == ACCURACIES.keys()
    for name, row in shown.items():
        assert row["accuracy"] == pytest.approx(ACCURACIES[name] * 100)
        assert row["ms_per_step"] == pytest.approx(100 / SPEEDUPS[name])
        assert row["ms_low"] < row["ms_per_step"] < row["ms_high"]
    assert shown["dense"]["kind"] == "none (plain LoRA)"


def test_without_times_there_is_no_tradeoff(tmp_path: Path) -> None:
    run(tmp_path / "a", timed=False)
    assert accuracy_by_time(only(tmp_path)) is None


def test_the_bound_is_set_against_our_own_dense_path(tmp_path: Path) -> None:
    chart = speedup_by_bound(only(named_settings(tmp_path)))
    assert chart is not None
    shown = points(chart, "own_speedup")
    assert shown.keys() == {"optimized", "fallback"}  # plain LoRA has no bound to reach
    assert shown["optimized"]["own_speedup"] == pytest.approx(0.9 * SPEEDUPS["optimized"])
    run(tmp_path / "alone" / "a")
    assert speedup_by_bound(only(tmp_path / "alone")) is None
