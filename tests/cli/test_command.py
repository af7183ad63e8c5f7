import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from sparselora import __version__
from tests.cli.lines import MAINS, Invoke, assert_one_line, tiny


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("name", MAINS)
def test_several_processes_for_one_run(
    invoke: Invoke,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    name: str,
) -> None:
    monkeypatch.setenv(variable, "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    outcome = invoke(*tiny(tiny_overrides, (), name), main=MAINS[name])
    assert_one_line(outcome, f"{variable}=2", "torchrun")


def test_one_process_under_torchrun_is_a_run(
    invoke: Invoke, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    assert invoke(*tiny_overrides, "svd_rank=3", "train.max_steps=5").code == 0


@pytest.mark.parametrize("name", ["run", "bench", "report", None])
def test_the_version_is_ours(
    name: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "sparselora" if name is None else f"sparselora.{name}"
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert not stopped.value.code
    assert capsys.readouterr().out == f"sparselora {__version__}\n"


@pytest.mark.parametrize("word", ["run", "bench", "report"])
def test_the_package_takes_a_command_first(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from sparselora.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    bad = {"run": "svd_rnk=3", "bench": "train.max_steps=3", "report": "nowhere"}[word]
    monkeypatch.setattr(sys, "argv", ["sparselora", word, bad])
    assert main() == 2
    key = bad.partition("=")[0]
    assert capsys.readouterr().err.startswith(f"error: {key}: ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "sparselora", "--help"]
    pipe, end = os.pipe()
    os.close(pipe)
    try:
        done = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(end)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
