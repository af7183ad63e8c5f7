import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora.report import formats
from sparselora.report.rendering import bench_table, page, side_by_side, sweep_table, terminal


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, pd.NaT])
def test_nothing_is_a_dash(nothing: object) -> None:
    assert formats.cell(nothing, "{:.2f}") == "–"
    assert formats.interval(nothing, 1.0, "{:.2f}") == "–"
    assert formats.interval(1.0, nothing, "{:.2f}") == "–"
    assert formats.with_interval(nothing, 1.0, 2.0, form="{:.2f}") == "–"
    assert formats.with_interval(1.5, nothing, nothing, form="{:.2f}", unit=" s") == "1.50 s"


def test_values_are_written_in_their_form() -> None:
    assert formats.cell(0.75, "{:.1f} %", 100) == "75.0 %"
    assert formats.cell(0, "{:.0f}") == "0"
    assert formats.cell(False) == "False"
    assert formats.cell([1, None]) == "[1, None]"
    assert formats.cell("a") == "a"


@settings(deadline=None)
@given(st.floats(-9, 9), st.floats(-9, 9), st.floats(-9, 9))
def test_an_interval_stands_behind_its_figure_and_unit(
    low: float, middle: float, high: float
) -> None:
    text = formats.with_interval(middle, low, high, form="{:+.2f}", unit=" points")
    assert text == f"{middle:+.2f} points ({formats.interval(low, high, '{:+.2f}')})"
    first, last = formats.interval(low, high, "{:+.2f}").split(" to ")
    assert float(first) == pytest.approx(low, abs=0.0051)
    assert float(last) == pytest.approx(high, abs=0.0051)


def test_one_speed_up_has_one_head_everywhere() -> None:
    heads = [
        terminal.COLUMNS["speedup"][0],
        sweep_table._COLUMNS["speedup"][0],
        page._COLUMNS["speedup"][0],
        bench_table._ROWS[6][0],
        side_by_side._HEADS["speedup_a"].removeprefix("A "),
        side_by_side._HEADS["speedup_b"].removeprefix("B "),
    ]
    assert {head.removesuffix(" (95 %)") for head in heads} == {"× stock"}


def test_a_table_is_as_wide_as_its_widest_cells_and_rules() -> None:
    assert formats.text_width({"a": ["ab", "x"], "c  ": ["c"]}) == len("│ ab │ c   │")
