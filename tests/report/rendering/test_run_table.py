import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparselora.paths import PACKAGE
from sparselora.report.rendering.run_table import curves_table, input_rows, print_run

EXAMPLE = PACKAGE.parent / "docs" / "example" / "runs" / "named" / "3" / "record.json"


@pytest.fixture
def content() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(EXAMPLE.read_text())
    record["config"]["task"] = {"name": "classification"}
    return record


def printed(content: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=400)
    print_run(content, "runs/1/record.json", console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_figures_are_the_records(content: dict[str, Any]) -> None:
    shown = printed(content)
    timing = content["timing"]
    assert f"{timing['speedup']:.3f} × stock ({timing['speedup_low']:.3f} to " in shown
    assert f"{content['metrics']['validation']['accuracy']:.4f}" in shown
    assert f"{content['parameters']['trained']:,}" in shown
    assert "runs/1/record.json" in shown


def test_what_was_not_measured_is_not_made_up(content: dict[str, Any]) -> None:
    shown = printed(content | {"timing": None, "timing_error": "[lock]", "peak_memory_mb": None})
    assert "× stock" not in shown
    assert "[lock]" in shown
    assert "not reported by this system" in shown


def test_an_unstable_control_is_shown(content: dict[str, Any]) -> None:
    timing = content["timing"] | {"stable": False, "aa_low": 0.9, "aa_high": 0.95}
    assert "unstable: stock against itself 0.900 to 0.950" in printed(content | {"timing": timing})
    stable = content["timing"] | {"stable": True}
    assert "unstable" not in printed(content | {"timing": stable})


def test_completions_are_matched_not_classified(content: dict[str, Any]) -> None:
    content["config"]["task"] = {"name": "causal_lm"}
    assert "validation exact match" in printed(content)
    assert "commonest answer" in printed(content)


def test_what_is_odd_about_the_data_is_said() -> None:
    data = {
        "rows": {"train": 1000},
        "dropped_rows": 3,
        "dropped": {"twice": 3},
        "notes": ["a note"],
    }
    rows = list(input_rows({"data": data, "model": {"notes": ["another"]}}))
    assert rows == [
        ("rows", "1,000 train; 3 left out (3 twice)"),
        ("note", "a note"),
        ("note", "another"),
    ]
    old = {"rows": {"train": 5}, "dropped_rows": 0}
    assert list(input_rows({"data": old})) == [("rows", "5 train")]


def test_curves_have_a_row_a_layer(tmp_path: Path) -> None:
    table = curves_table(
        {"levels": [0.0, 0.5, 0.9], "errors": [[0.0, 0.1, 0.2], [0.0, 0.3, 0.4]]}
        | {"sparsities": [0.5, 0.9]}
    )
    assert [column.header for column in table.columns] == ["layer", "0.5", "0.9", "chosen"]
    assert list(table.columns[1].cells) == ["0.1000", "0.3000"]
    assert list(table.columns[3].cells) == ["0.500", "0.900"]
