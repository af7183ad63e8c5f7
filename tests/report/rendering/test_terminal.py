import io
from pathlib import Path

import pandas as pd
from rich.console import Console

from sparselora import load_records
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.rendering.terminal import (
    print_comparison,
    print_problems,
    print_titles,
    readable,
)
from tests.report.synthetic import named_settings, run


def only(root: Path) -> Comparison:
    (comparison,) = compare(load_records(root))
    return comparison


def console(width: int = 300) -> Console:
    return Console(file=io.StringIO(), width=width)


def text(of: Console) -> str:
    return of.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_marks_say_what_can_be_told_from_the_best(tmp_path: Path) -> None:
    named_settings(tmp_path)
    run(tmp_path / "few", "few", accuracy=0.7, experiment="")
    cells = readable(only(tmp_path)).set_index("setting")["accuracy"]
    assert cells["dense"] == "80.00 *"
    assert cells["optimized"] == "77.00"
    assert cells["few"] == "70.00 ?"


def test_intervals_stand_with_their_figure(tmp_path: Path) -> None:
    row = readable(only(named_settings(tmp_path))).set_index("setting").loc["optimized"]
    assert row["speedup"].startswith("1.80 (1.7")
    assert row["delta"].startswith("-3.00 (-")
    two = readable(only(named_settings(tmp_path / "two", seeds=2))).set_index("setting")
    assert two.loc["optimized", "delta"] == "-3.00"


def test_columns_that_hold_nothing_are_left_out(tmp_path: Path) -> None:
    run(tmp_path / "a", timed=False)
    frame = readable(only(tmp_path))
    assert "speedup" not in frame
    assert "accuracy" in frame


def test_a_narrow_terminal_loses_the_least_needed_columns(tmp_path: Path) -> None:
    comparison = only(named_settings(tmp_path))
    wide, narrow = console(), console(90)
    print_comparison(comparison, wide)
    print_comparison(comparison, narrow)
    assert "GFLOPs" in text(wide)
    assert "GFLOPs" not in text(narrow)
    for each in (wide, narrow):
        words = " ".join(text(each).split())
        assert "× stock" in words
        assert "No setting" in words or "the speed of stock LoRA" in words


def test_few_seeds_and_unstable_times_are_named(tmp_path: Path) -> None:
    run(tmp_path / "a")
    timing = {"speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6, "stable": False}
    run(tmp_path / "b", "shaky", timing=timing)
    shown = console()
    print_comparison(only(tmp_path), shown)
    assert "Unstable timing, stock against itself strayed from 1: shaky" in text(shown)
    assert "Fewer than 3 seeds: no claim" in text(shown)


def test_problems_beyond_ten_are_counted() -> None:
    problems = pd.DataFrame({"folder": [f"f{n}" for n in range(12)], "problem": "cut short"})
    shown = console()
    print_problems(problems, pd.Series({"completed": 3, "failed": 12}), shown)
    assert "15 records: 3 completed, 12 failed" in text(shown)
    assert "f9: cut short" in text(shown)
    assert "f10" not in text(shown)
    assert "and 2 more" in text(shown)


def test_several_tables_are_announced(tmp_path: Path) -> None:
    comparison = only(named_settings(tmp_path, seeds=1))
    one, two = console(), console()
    print_titles([comparison], one)
    print_titles([comparison, comparison], two)
    assert text(one) == ""
    assert text(two).startswith("2 tables")
