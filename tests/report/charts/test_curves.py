from pathlib import Path
from typing import Any

import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.charts.curves import MAX_CURVES, accuracy_by_step, loss_by_step
from tests.report.synthetic import STEPS, named_settings, run


def only(root: Path) -> Comparison:
    (comparison,) = compare(load_records(root))
    return comparison


def rows(chart: Any, key: str) -> list[dict[str, Any]]:
    datasets = chart.to_dict(validate=False)["datasets"].values()
    return [row for each in datasets for row in each if key in row]


def test_one_run_a_setting_and_a_rule_where_sparsity_is_switched(tmp_path: Path) -> None:
    chart = loss_by_step(only(named_settings(tmp_path)))
    losses = rows(chart, "loss")
    assert len(losses) == 3 * STEPS
    mine = [row for row in losses if row["setting"] == "dense"]
    assert mine[0]["loss"] == pytest.approx(0.699)
    # Smoothed: the mean of the last twenty steps.
    assert mine[-1]["loss"] == pytest.approx(0.7 - (41 + 60) / 2 / 1000)
    switched = rows(chart, "to")
    assert {row["setting"] for row in switched} == {"optimized", "fallback"}
    assert {(row["step"], row["to"]) for row in switched} == {(7, "sparse")}


def test_accuracy_is_in_percent_at_each_evaluation(tmp_path: Path) -> None:
    run(tmp_path / "a", accuracy=0.8)
    found = rows(accuracy_by_step(only(tmp_path)), "accuracy")
    assert [row["step"] for row in found] == [STEPS // 2, STEPS]
    assert all(row["accuracy"] == pytest.approx(80.0) for row in found)


def test_no_more_curves_than_colours(tmp_path: Path) -> None:
    for index in range(MAX_CURVES + 2):
        run(tmp_path / f"{index}", f"s{index}", ffn_sparsity=index / 100)
    assert len({row["setting"] for row in rows(loss_by_step(only(tmp_path)), "loss")}) == MAX_CURVES


def test_runs_without_their_steps_have_no_curve(tmp_path: Path) -> None:
    run(tmp_path / "a", predictions=False)
    assert loss_by_step(only(tmp_path)) is None
