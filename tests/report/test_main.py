import json
from pathlib import Path

import pandas as pd
import pytest

from sparselora import load_records
from sparselora.report.__main__ import main
from sparselora.report.loading.usable import problems
from tests.report.synthetic import named_settings, run


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_report_prints_the_answer_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named_settings(tmp_path / "outputs")
    assert main([]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "9 records: 9 completed" in said
    assert "fallback: 1.60 × the speed of stock LoRA (1.58 to 1.62), -0.50 points" in said
    assert (tmp_path / "outputs" / "reports" / "report.html").stat().st_size > 100_000
    # A report of a folder that holds reports is the same again.
    assert main(["outputs", "--no-files"]) == 0
    assert "9 records" in capsys.readouterr().out


def test_recommend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named_settings(tmp_path / "outputs")
    assert main(["outputs", "--recommend", "max_drop=1.5"]) == 0
    said = capsys.readouterr().out
    assert "python -m sparselora.run experiment=fallback" in said
    assert main(["outputs", "--recommend", "max_drop=0.1"]) == 0
    assert "None: the data is too thin" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "outputs" / "reports").exists()


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named_settings(tmp_path / "a")
    named_settings(tmp_path / "b")
    run(tmp_path / "b" / "more", "alone", experiment="")
    (tmp_path / "b" / "fallback-1" / "record.json").write_text("{")
    assert main(["--compare", "a", "b"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "+0.00" in said
    assert "In B alone: alone" in said
    assert "In A alone" not in said
    assert "1 of 10 records are of no, or of limited, use" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone: no such folder"),
        (["empty"], "empty: no record.json in it or below"),
        (["sqlite:///gone.db"], "sqlite:///gone.db: no such database"),
        (["a", "sqlite:///x.db", "sqlite:///y.db"], "one study at a time"),
        (["one", "--recommend", "max_drop=much"], "max_drop=POINTS is allowed"),
        (["one", "--recommend", "drop=1"], "max_drop=POINTS is allowed"),
        (["failed", "--recommend", "max_drop=1"], "no completed run with an accuracy"),
        (["--compare", "one", "failed"], "hold no setting that both ran"),
        (["one", "--out", "file"], "file"),
        (["--compare", "one", "one", "--recommend", "max_drop=1"], "--compare: takes two folders"),
        (["one", "--study", "s"], "--study s: give the URL"),
        (["one", "--recommend", "max_drop=1", "--no-files"], "--no-files: without effect beside"),
        (["--compare", "one", "one", "--out", "x"], "--out x: without effect beside --compare"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    run(tmp_path / "one" / "a")
    run(tmp_path / "failed" / "a", status="failed")
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_single_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "outputs" / "a", "optimized", predictions=False)
    assert main([]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no run of plain LoRA" in said
    assert "Fewer than 3 seeds: no claim" in said


def test_a_thousand_records_of_which_a_tenth_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = run(tmp_path / "template", "optimized", predictions=False) / "record.json"
    content = json.loads(template.read_text())
    template.unlink()
    for number in range(1000):
        folder = tmp_path / "outputs" / f"{number}"
        folder.mkdir(parents=True)
        content["config"]["seed"] = number % 20
        content["config"]["ffn_sparsity"] = number // 20 / 100
        text = json.dumps(content)
        if number % 40 == 0:
            text = text[: len(text) // 2]
        elif number % 40 == 1:
            text = ""
        elif number % 40 == 2:
            text = json.dumps({"status": "completed", "label": "old", "metrics": {}})
        elif number % 40 == 3:
            text = json.dumps(content | {"metrics": None})
        (folder / "record.json").write_text(text)
    records = load_records(tmp_path / "outputs")
    assert len(records) == 1000
    assert records["status"].value_counts().to_dict() == {"completed": 950, "unreadable": 50}
    named = problems(records)
    assert len(named) == 100
    assert named["problem"].str.startswith("unreadable").sum() == 50
    assert named["problem"].str.contains("no validation accuracy").sum() == 50
    assert main(["outputs"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1000 records: 950 completed, 50 unreadable" in said
    assert "and 990 more; all are in problems.csv" in said
    out = tmp_path / "outputs" / "reports"
    listed = pd.read_csv(out / "problems.csv")["problem"]
    assert listed.str.contains("predictions are missing").sum() == 900
    assert len(listed) == 1000
    assert len(pd.read_csv(out / "runs.csv")) == 1000
    assert pd.read_csv(out / "settings.csv")["seeds"].sum() == 900
