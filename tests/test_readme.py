"""Every command and every snippet of the README, with a small budget."""

import contextlib
import io
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from sparselora.bench import main as bench_main
from sparselora.paths import PACKAGE
from sparselora.report.__main__ import main as report_main
from tests.conftest import Outcome, sentences

README = (PACKAGE.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[2:]
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("python -m")
]
SNIPPETS = [block for language, block in BLOCKS if language == "python"]


def small(arguments: list[str], hub_folder: Path, bench: bool = False) -> list[str]:
    """The command as it stands, on a tiny model and a few steps where it does not say otherwise."""
    given = {argument.split("=")[0] for argument in arguments}
    extra = {
        "train.max_steps": "3",
        "measure.eval_every": "null",
        "train.threads": "1",
        "measure.timing": "none",
    }
    if bench:
        extra = {"train.threads": "2"}
    if "task" in given:  # a decoder, which the caller has put in the place of the full one
        return [*arguments, *(f"{key}={value}" for key, value in extra.items() if key not in given)]
    if not given & {"model", "model.name_or_path"}:
        extra |= {"model.name": "tiny", "model.name_or_path": str(hub_folder)}
    if "data" not in given:
        extra |= {
            "data": "table",
            "data.path": "my.csv",
            "data.text_column": "sentence",
            "data.label_column": "kind",
        }
    return [*arguments, *(f"{key}={value}" for key, value in extra.items() if key not in given)]


def test_there_are_commands_and_snippets() -> None:
    assert len(COMMANDS) >= 10
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_command(
    invoke: Callable[..., Outcome],
    hub_folder: Path,
    decoder_overrides: list[str],
    tmp_path: Path,
    arguments: list[str],
) -> None:
    sentences(240).assign(second="a line").to_csv(tmp_path / "my.csv", index=False)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(hub_folder)
    module, *rest = arguments
    if "model=smollm2" in rest:
        tiny = [item for item in decoder_overrides if item.startswith(("model.", "data"))]
        rest = [*(item for item in rest if item != "model=smollm2"), *tiny, "measure.eval_rows=9"]
        if module == "sparselora.bench":
            rest = [item for item in rest if not item.startswith("measure.")]
    if module == "sparselora.report":
        assert invoke(*small([], hub_folder)).code == 0
        for name in ("before", "after"):
            Path(name).symlink_to("outputs")
        assert report_main(rest) == 0
        return
    if module == "sparselora.bench":
        # The tiny model is 24 wide.
        rest = ["compensation.rank=8" if item == "compensation.rank=32" else item for item in rest]
        few = ["measure.min_rounds=2", "measure.max_rounds=2", "measure.batches=1"]
        # At full size, or of more positions than the tiny one has: the smallest of batches.
        if {"model=distilbert-random", "bench.seq_len=256"} & set(rest):
            few += ["bench.batch_size=2", "bench.seq_len=8"]
        outcome = invoke(*small(rest, hub_folder, bench=True), *few, main=bench_main)
        assert outcome.code == 0, outcome.err
        assert outcome.out.count("× stock") == 1
        return
    assert module == "sparselora.run"
    if "--help" in rest:
        with pytest.raises(SystemExit) as exited:
            invoke(*rest)
        assert exited.value.code == 0
        return
    search = [item.split("=")[1] for item in rest if item.startswith("+sweep=")][:1]
    if search and search[0] in ("tradeoff", "study_plan"):
        count = 5 if search[0] == "tradeoff" else 3
        rest = [item for item in rest if not item.startswith("hydra.sweeper.n_trials")]
        rest += ["hydra.sweeper.objectives=[accuracy,gflops_per_step]"]
        rest += [f"hydra.sweeper.n_trials={count}", "hydra.sweeper.follow_up=false"]
        outcome = invoke(*small(rest, hub_folder))
        assert outcome.code == 0, outcome.err
        seeds = 3 if "seeds=[1,2,3]" in rest else 1
        assert [record["status"] for record in outcome.records()] == ["completed"] * count * seeds
        return
    outcome = invoke(*small(rest, hub_folder))
    if "model=distilbert" in rest:  # from the hub, which no test may need
        assert outcome.code == 2
        assert outcome.message[-1].startswith("error: data.path=nyu-mll/glue: cannot be loaded")
        return
    assert outcome.code == 0, outcome.err
    assert all(record["status"] == "completed" for record in outcome.records())
    values = [
        argument.split("=")[1].split(",")
        for argument in rest
        if "{" not in argument and "=" in argument
    ]
    if "+sweep=paper_tokens" in rest:
        values = [["all", "context"], ["1", "2"]]
    jobs = math.prod(len(value) for value in values) if "-m" in rest else 1
    jobs = 3 if "seeds=[1,2,3]" in rest else jobs
    assert len(outcome.records()) == (6 if "+sweep=headline" in rest else jobs)


def test_prediction_snippet(invoke: Callable[..., Outcome], hub_folder: Path) -> None:
    # `invoke` has made an empty folder the working one.
    sentences(240).to_csv("my.csv", index=False)
    assert invoke(*small([], hub_folder)).code == 0
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(SNIPPETS[0], "README.md", "exec"), {})
    assert re.fullmatch(r"\['(up|down)', '(up|down)'\]\n", printed.getvalue())


def test_library_snippet() -> None:
    exec(compile(SNIPPETS[1], "README.md", "exec"), {})


def test_call_snippet(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = '["experiment=optimized", "train.max_steps=40"]'
    assert given in SNIPPETS[2]
    tiny = [item for item in tiny_overrides if not item.startswith("measure.timing")]
    few = ["measure.min_rounds=2", "measure.max_rounds=2", "measure.batches=1"]
    snippet = SNIPPETS[2].replace(given, repr(["experiment=optimized", *tiny, *few]))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(snippet, "README.md", "exec"), {})
    accuracy, speedup, folder = printed.getvalue().split()
    assert 0 <= float(accuracy) <= 1
    assert float(speedup) > 0
    assert (Path(folder) / "record.json").exists()
