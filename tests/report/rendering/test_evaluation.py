from pathlib import Path

import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import compare
from sparselora.report.rendering.evaluation import acceptance, evaluation, fallback_rule
from tests.report.synthetic import named_settings, run


def document(root: Path) -> str:
    (only,) = compare(load_records(root))
    return evaluation(only)


def test_the_studys_table_and_lines(tmp_path: Path) -> None:
    text = document(named_settings(tmp_path))
    assert "| dense | 80.00 | 0.7900 | 0.4500 | 0.0 % | 1,000 | 300 | 90.9 | 3 |" in text
    assert "| original | not run | | | | | | | |" in text
    assert text.count("\n| optimized |") == 1
    lines = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    # Times and memory are set against stock PEFT LoRA, whose figures stand there too.
    assert "| stock PEFT LoRA | – | – | – | 0.0 % | – | 400 | 100.0 | – |" in text
    assert lines["| faster"].endswith("| +44.4% (+43.8% to +45.1%) | met |")
    assert lines["| accuracy"].endswith("| not met |")
    assert lines["| memory"].endswith("| -25.0% | met |")
    assert "called for: `optimized` is 3.00 points below" in text
    assert "so the SVD stays" in text


def test_without_optimized_nothing_is_claimed(tmp_path: Path) -> None:
    run(tmp_path / "a")
    text = document(tmp_path)
    assert text.count("| not run | – |") == 3
    assert "cannot be judged" in text


def row(**changes: object) -> dict[str, object]:
    return {
        "speedup": 1.2,
        "speedup_low": 1.15,
        "speedup_high": 1.25,
        "delta_points": -0.5,
        "delta_low": -0.9,
        "delta_high": -0.1,
        "paired_seeds": 3,
        "step_memory_mb": 400.0,
        "dense_step_memory_mb": 400.0,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "line", "verdict"),
    [
        ({}, 0, "met"),
        ({"speedup_low": 1.05}, 0, "not shown: the interval holds the target"),
        ({"speedup": 0.9, "speedup_low": 0.88, "speedup_high": 0.95}, 0, "not met"),
        ({}, 1, "met"),
        ({"delta_low": -1.2}, 1, "not shown: the interval holds the target"),
        ({"delta_low": -3.0, "delta_high": -1.1}, 1, "not met"),
        ({"delta_low": None, "paired_seeds": 2}, 1, "not shown: fewer than 3 paired seeds"),
        ({"delta_low": None}, 1, "not shown: predictions are missing"),
        ({"step_memory_mb": 421.0}, 2, "not met"),
        ({"step_memory_mb": None}, 2, "–"),
    ],
)
def test_a_target_is_met_by_the_whole_interval(
    changes: dict[str, object], line: int, verdict: str
) -> None:
    rows = {"dense": row(), "optimized": row(**changes)}
    assert acceptance(rows)[line][3] == verdict


def test_fallback_rule() -> None:
    assert fallback_rule({"optimized": row(), "fallback": None}).startswith("not called for")
    better = row(delta_points=0.5)
    assert "at +0.50 points" in fallback_rule({"optimized": better, "fallback": None})
    low = row(delta_points=-2.0)
    assert "`fallback` was not run" in fallback_rule({"optimized": low, "fallback": None})
    slow = row(speedup=1.0, speedup_low=0.98, speedup_high=1.02)
    assert "drop the SVD" in fallback_rule({"optimized": low, "fallback": slow})
