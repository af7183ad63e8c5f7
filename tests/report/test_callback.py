import json
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from sparselora.report.callback import SweepTable
from tests.report.synthetic import named_settings


def end(folder: Path) -> None:
    SweepTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def test_a_sweep_ends_with_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named_settings(tmp_path, seeds=1)
    end(tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 runs, best first" in shown
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert table["label"].tolist() == ["dense", "fallback", "optimized"]


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_sweep_without_runs_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    end(tmp_path / name)
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.rglob("sweep.csv"))


def test_benches_are_shown_though_there_are_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "bench.json").write_text(json.dumps({"label": "a"}))
    shown: list[str] = []
    monkeypatch.setattr(
        "sparselora.report.callback.print_bench",
        lambda benches, _: shown.extend(content["label"] for content, _ in benches),
    )
    end(tmp_path)
    assert shown == ["a"]
