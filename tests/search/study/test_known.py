"""A setting is known only where nothing that decides its outcome has changed."""

import os
from pathlib import Path

import pytest

from sparselora.config.schema import RunConfig
from sparselora.machine import provenance
from sparselora.search.study.known import fingerprint


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(provenance, "git_state", lambda: {"commit": "c", "dirty": False})
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lines.csv").write_text("text,label\na,b\n")
    run = RunConfig()
    run.data.path = str(tmp_path / "lines.csv")
    run.model.name_or_path = "asset:minilm"
    return run


@pytest.mark.parametrize("path", ["lines.csv", "~/lines.csv"])
def test_a_table_that_was_written_anew_is_another(
    run: RunConfig, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run.data.path = path
    before = fingerprint(run, "cpu", 1)
    assert before == fingerprint(run, "cpu", 1) is not None
    os.utime(tmp_path / "lines.csv", ns=(1, 1))
    assert fingerprint(run, "cpu", 1) != before


def test_settings_device_and_threads_count_and_tags_do_not(run: RunConfig) -> None:
    before = fingerprint(run, "cpu", 1)
    assert before != fingerprint(run, "gpu", 1)
    assert before != fingerprint(run, "cpu", 2)
    run.tags = ["mine"]
    assert fingerprint(run, "cpu", 1) == before
    run.seed = 3
    assert fingerprint(run, "cpu", 1) != before


def test_a_dirty_tree_knows_nothing(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "git_state", lambda: {"commit": "c", "dirty": True})
    assert fingerprint(run, "cpu", 1) is None


def test_rows_of_a_function_are_never_known(run: RunConfig) -> None:
    run.data.path = "dataset:mine"
    assert fingerprint(run, "cpu", 1) is None
