import json
from pathlib import Path

from sparselora import load_records
from sparselora.report.analysis.comparison import compare
from sparselora.report.charts.registry import NAMES, charts
from tests.report.synthetic import named_settings, run


def test_a_chart_that_the_runs_hold_no_data_for_is_left_out(tmp_path: Path) -> None:
    (comparison,) = compare(load_records(named_settings(tmp_path)))
    made = charts(comparison)
    # One rank and one sparsity make no grid.
    assert set(NAMES) - made.keys() == {
        "accuracy_by_rank_and_sparsity",
        "speedup_by_rank_and_sparsity",
        "importance",
    }
    assert all("title" in chart and json.dumps(chart) for chart in made.values())


def test_untimed_runs_without_files_have_few_charts(tmp_path: Path) -> None:
    run(tmp_path / "a", timed=False, predictions=False)
    (comparison,) = compare(load_records(tmp_path))
    assert charts(comparison) == {}
