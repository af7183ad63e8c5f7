import json
from pathlib import Path

import pandas as pd
import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import compare
from sparselora.report.loading.usable import family, is_usable, problems, where
from tests.report.loading.test_load import record, write
from tests.report.synthetic import run


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"status": "failed", "error": "nan"}, "failed: nan"),
        ({"status": "running"}, "running"),
        ({}, "no status"),
        ({"status": "completed"}, "no validation accuracy"),
        (record(0.8, 0.0), "schema version missing, this is 1"),
        (record(0.8, 0.0, schema_version=0), "schema version 0, this is 1"),
        (record(0.8, 0.0, schema_version=1), None),
        (record(0.8, 0.0) | {"config": [1]}, "no configuration with a seed"),
        (record(0.8, 0.0) | {"config": {"model": {}}}, "no configuration with a seed"),
        (record(0.8, 0.0, seed=1e30), "no configuration with a seed"),  # type: ignore[arg-type]
    ],
)
def test_problems_are_named(tmp_path: Path, content: dict, problem: str | None) -> None:
    write(tmp_path / "a", **content)
    found = problems(load_records(tmp_path))["problem"].tolist()
    assert found == [] if problem is None else problem in found[0]


def test_a_replaced_run_is_named(tmp_path: Path) -> None:
    for day in (1, 2):
        write(tmp_path / f"{day}", **record(0.8, 0.0, schema_version=1, started=f"2026-01-0{day}"))
    found = problems(load_records(tmp_path))
    assert found["problem"].tolist() == ["left out: a later run has the same setting and seed"]
    assert found["folder"].str.endswith("1").all()


@pytest.mark.parametrize("accuracy", [71.46, -0.1, 1e308])
def test_an_accuracy_that_is_no_share_is_named(tmp_path: Path, accuracy: float) -> None:
    path = run(tmp_path / "a") / "record.json"
    content = json.loads(path.read_text())
    content["metrics"]["validation"]["accuracy"] = accuracy
    path.write_text(json.dumps(content))
    assert compare(load_records(tmp_path)) == []
    assert "no share from 0 to 1" in problems(load_records(tmp_path))["problem"].iloc[0]


def test_a_seed_given_as_text_is_that_seed(tmp_path: Path) -> None:
    content = json.loads((run(tmp_path / "a") / "record.json").read_text())
    run(tmp_path / "b", config=content["config"] | {"seed": "1"})
    records = load_records(tmp_path)
    (comparison,) = compare(records)
    assert len(comparison.runs) == 1
    assert problems(records)["problem"].str.contains("a later run has the same setting").sum() == 1


def test_usable_is_what_has_no_problem_but_an_older_version(tmp_path: Path) -> None:
    write(tmp_path / "a", **record(0.8, 0.0))
    write(tmp_path / "b", **record(0.8, 0.0) | {"status": "running"})
    write(tmp_path / "c", **record(1.8, 0.0, seed=2))
    assert is_usable(load_records(tmp_path)).tolist() == [True, False, False]


def test_a_family_is_a_pairing_without_its_seed(tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tmp_path / str(seed), seed=seed)
    first, second = load_records(tmp_path)["pairing"]
    assert first != second
    assert family(first) == family(second)


def test_times_are_compared_on_one_device_with_so_many_threads() -> None:
    records = pd.DataFrame({"device": ["A", "A", None], "threads": [1, 2, pd.NA]})
    assert where(records) == ["A, 1 thread", "A, 2 threads", "unknown device"]
