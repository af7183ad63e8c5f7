import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from sparselora import load_records
from sparselora.errors import UserError
from sparselora.report.__main__ import main
from sparselora.report.table import print_sweep, sweep_table


def write(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content))


def record(accuracy: float, realised: float, seed: int = 1, **extra: object) -> dict:
    return {
        "run_id": "x",
        "status": "completed",
        "label": "dense" if realised == 0 else "sparse",
        "config": {
            "model": {"name": "m", "random_init": False},
            "data": {"name": "d"},
            "seed": seed,
        },
        "metrics": {"validation": {"accuracy": accuracy, "f1": 0.5, "loss": 0.6}},
        "sparsity": {"realised_mean": realised},
        **extra,
    }


def test_whatever_lies_there_gives_a_row(tmp_path: Path) -> None:
    write(tmp_path / "10", **record(0.8, 0.0))
    write(tmp_path / "9", **record(0.7, 0.5))
    write(tmp_path / "a-old", status="completed", metrics=None)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "record.json").write_text('{"status": "runn')
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "record.json").write_text("[1]")
    frame = load_records(tmp_path)
    assert len(frame) == 5
    assert frame["status"].value_counts().to_dict() == {"completed": 3, "unreadable": 2}
    # Numbered folders are in the order of their numbers.
    assert [Path(folder).name for folder in frame["folder"]][-2:] == ["9", "10"]
    assert pd.api.types.is_numeric_dtype(frame["accuracy"])
    assert load_records(tmp_path / "cut")["accuracy"].isna().all()


def test_no_folder_and_no_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_records(tmp_path / "gone")
    assert main([str(tmp_path)]) == 2
    assert "no record.json" in capsys.readouterr().err


def test_difference_to_dense_is_paired_by_seed(tmp_path: Path) -> None:
    for seed, dense, sparse in ((1, 0.80, 0.79), (2, 0.82, 0.83)):
        write(tmp_path / f"d{seed}", **record(dense, 0.0, seed))
        write(tmp_path / f"s{seed}", **record(sparse, 0.5, seed))
    write(tmp_path / "s3", **record(0.9, 0.5, seed=3))
    frame = sweep_table(load_records(tmp_path)).set_index(["label", "seed"])
    assert frame.loc[("sparse", 1), "delta_dense"] == pytest.approx(-0.01)
    assert frame.loc[("sparse", 2), "delta_dense"] == pytest.approx(0.01)
    assert pd.isna(frame.loc[("sparse", 3), "delta_dense"])


def test_names_from_configs_are_printed_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "one", **(record(0.8, 0.5) | {"label": "[bold]x[/bold] [red"}))
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    print_sweep(sweep_table(load_records(tmp_path)), console, "t")
    assert "[bold]x[/bold] [red" in console.export_text()


def test_report_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "one", **record(0.8, 0.5))
    assert main([str(tmp_path), "--csv", str(tmp_path / "out.csv")]) == 0
    assert "0.8000" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out.csv")["accuracy"].tolist() == [0.8]
