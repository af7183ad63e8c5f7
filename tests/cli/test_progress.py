from types import SimpleNamespace
from typing import Any

import pytest

from sparselora.cli.progress import Progress


def test_one_bar_at_a_time_with_the_newest_figures(capsys: pytest.CaptureFixture[str]) -> None:
    row: Any = SimpleNamespace(phase="sparse", loss=0.5, milliseconds=120.4)
    plan: Any = SimpleNamespace(total_steps=2)
    scores: Any = SimpleNamespace(accuracy=0.75, step=1)
    with Progress("mine") as progress:
        progress.on_step(row, plan, None)
        progress.on_step(row, plan, scores)
        progress.on_round(1)
    shown = capsys.readouterr().err
    assert "mine: 100%" in shown
    assert "sparse, loss 0.500, 120 ms/step, accuracy 0.750 at 1" in shown
    assert "timing against stock PEFT LoRA" in shown


def test_nothing_is_shown_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("mine"):
        pass
    assert capsys.readouterr().err == ""
