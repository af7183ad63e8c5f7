"""What stands on a command line: what is meant is found, what cannot be is a line and exit code 2."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora import __version__, bench, run
from sparselora.config.keys import known_keys, suggestions, unknown_key
from sparselora.paths import CONF
from sparselora.report import __main__ as report
from sparselora.report.analysis.rows import command
from sparselora.report.loading.load import load_records
from tests.conftest import Outcome

Invoke = Callable[..., Outcome]
MAINS = {"run": run.main, "bench": bench.main}


def tiny(overrides: list[str], given: tuple[str, ...], name: str = "run") -> list[str]:
    """What makes a run tiny, but for keys that are given, and for what only training looks at."""
    keys = {each.lstrip("+~").partition("=")[0] for each in given}
    kept = [each for each in overrides if each.partition("=")[0] not in keys]
    training = ("train.max_steps", "measure.eval", "measure.timing")
    return kept if name == "run" else [each for each in kept if not each.startswith(training)]


def assert_one_line(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome.err + outcome.out
    assert len(outcome.message) == 1, outcome.message
    assert outcome.message[0].startswith("error: ")
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in outcome.message[0], outcome.message[0]
    assert not outcome.records()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_steps", ["train.max_steps"]),
        ("sparsity", ["ffn_sparsity"]),
        ("rank", ["svd_rank", "lora.r"]),
        ("lr", ["train.learning_rate"]),
        ("train.lr", ["train.learning_rate"]),
        ("learningRate", ["train.learning_rate"]),
        ("epochs", ["train.epochs"]),
        ("num_train_epochs", ["train.epochs"]),
        ("batch_size", ["train.batch_size", "bench.batch_size"]),
        ("per_device_train_batch_size", ["train.batch_size"]),
        ("warmup", ["train.lr_warmup_ratio", "sparse_warmup_ratio"]),
        ("dropout", ["lora.dropout"]),
        ("lora_alpha", ["lora.alpha"]),
        ("model.path", ["model.name_or_path"]),
        ("data.file", ["data.path"]),
        ("model.max_length", ["data.max_length"]),
        ("target_modules", ["lora.projections"]),
        ("train/max_steps", ["train.max_steps"]),
        ("random_seed", ["seed"]),
        ("modle", ["model"]),
        ("trian.max_steps", ["train.max_steps"]),
        ("layer_sparsty", ["layer_sparsity"]),
        ("optimized", ["experiment=optimized", "schedule=optimized"]),
        ("zzz", []),
    ],
)
def test_what_is_meant(key: str, meant: list[str]) -> None:
    assert suggestions(key.replace("/", ".")) == meant
    message = unknown_key(key)
    assert message.startswith(f"{key}: unknown key;")
    assert all(each in message for each in meant)


@given(st.sampled_from(known_keys()), st.data())
def test_a_slip_in_any_key_is_mended(key: str, data: st.DataObject) -> None:
    name = key.rpartition(".")[2]
    if len(name) < 6:
        return
    place = len(key) - len(name) + data.draw(st.integers(1, len(name) - 2))
    slipped = key[:place] + data.draw(st.sampled_from("qz")) + key[place + 1 :]
    if slipped != key:
        assert key in suggestions(slipped)


@given(st.sampled_from([key for key in known_keys() if "." in key]))
def test_a_key_without_its_group_is_found(key: str) -> None:
    name = key.rpartition(".")[2]
    found = suggestions(name)
    assert found
    alike = [each for each in known_keys() if each.endswith(f".{name}")]
    assert key in found or len(alike) > 3 or name in ("rank", "checkpoint")


LINES: list[tuple[str, list[str]]] = [
    ("max_steps=40", ["max_steps: unknown key", "train.max_steps?"]),
    ("+max_steps=40", ["max_steps: unknown key", "train.max_steps?"]),
    ("sparsity=0.5", ["did you mean ffn_sparsity?"]),
    ("rank=4", ["did you mean svd_rank or lora.r?"]),
    ("ffn_sparsity=0.5,0.7", ["ffn_sparsity=0.5,0.7", "-m"]),
    ("model=minilm,distilbert", ["model=minilm,distilbert", "-m"]),
    ("svd_rank=range(2,4)", ["svd_rank=range(2,4)", "-m"]),
    ("seeds=1,2", ["-m", "'seeds=[1,2]'"]),
    ("data.text_column=a,b", ["-m", 'data.text_column="a,b"\'']),
    ("+sweep=tradeoff", ["+sweep=tradeoff", "-m +sweep=tradeoff"]),
    ("+sweep=headline", ["-m +sweep=headline"]),
    ("sweep=headline", ["sweep: unknown key", "-m +sweep?"]),
    ("+sweep=nothing", ["sweep=nothing", "one of compensation, estimators, headline"]),
    ("hydra.sweeper.n_trials=3", ["hydra.sweeper.n_trials=3", "-m"]),
    ("hydra/launcher=parallel", ["hydra/launcher=parallel", "-m"]),
    ("-m hydra.run.dir=x svd_rank=2,3", ["hydra.run.dir", "hydra.sweep.dir"]),
    ("-m svd_rank=2,3 svd_rank=4", ["svd_rank", "twice"]),
    ("-m model=glob(x*)", ["model=glob(x*)", "matches nothing"]),
    ("-m hydra.sweep.subdir=x svd_rank=2,3", ["hydra.sweep.subdir=x", "${hydra.job.num}"]),
    ("-m +hydra.sweeper.n_trials=3 svd_rank=2,3", ["hydra.sweeper.n_trials", "search"]),
    ("-m +sweep=headline hydra.sweeper.parms=3", ["hydra.sweeper.parms", "params?"]),
    ("experiment=dense ffn_sparsity=0.5", ["ffn_sparsity=0.5", "experiment=dense"]),
    ("experiment=dense qk_sparsity=0.5", ["qk_sparsity=0.5", "experiment=dense"]),
    ("experiment=dense layer_vo_sparsity={layer.0:0.5}", ["layer_vo_sparsity", "dense"]),
    ("experiment=dense layer_sparsity={layer.1:0.5}", ["layer_sparsity", "dense"]),
    ("experiment=dense +layer_sparsity.layer=0.5", ["layer_sparsity", "dense"]),
    ("experiment=dense schedule=optimized", ["schedule=optimized", "experiment=dense"]),
    ("-m experiment=optimized,dense vo_sparsity=0.2", ["vo_sparsity=0.2", "dense"]),
    ("data.text_column=a=b", ["data.text_column=a=b", "'data.text_column=\"a=b\"'"]),
    ("data.path=a(1).csv", ["'data.path=\"a(1).csv\"'"]),
    ("data.path=~nosuchuser/x.csv", ["'data.path=\"~nosuchuser/x.csv\"'"]),
    ('data.path="~nosuchuser/x.csv"', ["data.path=~nosuchuser/x.csv", "home"]),
    ('train.resume="~nosuchuser/x"', ["train.resume=~nosuchuser/x", "home"]),
    ("data.path=", ["data.path=", "needed"]),
    ("svd_rank = 4", ["svd_rank: KEY=VALUE", "without blanks"]),
    ("optimized", ["optimized: KEY=VALUE", "experiment=optimized"]),
    ("report outputs", ["report: is a command of its own", "sparselora.report"]),
    ("=4", ["=4: KEY=VALUE"]),
    ("model=[minilm,distilbert]", ["model=[minilm,distilbert]", "one of bert-base"]),
    ("train=null", ["train=null", "one of default, study"]),
    ("seeds=3", ["seeds=3", "a list"]),
    ("svd_rank=${foo}", ["foo", "svd_rank"]),
    ("hydra.foo=1", ["hydra.foo: unknown key"]),
    ("hydra.searchpath=[nowhere]", ["hydra.searchpath=nowhere", "no such folder"]),
    ("+experiment=dense", ["experiment"]),
    ("--nonsense", ["--nonsense: unknown flag"]),
    ("--multi-run", ["did you mean --multirun?"]),
    ("--svd_rank=4", ["settings have no dashes: svd_rank=4"]),
    ("--config-dir nowhere", ["--config-dir nowhere", "no such folder"]),
    ("--config-dir nowhere -m svd_rank=2,3", ["--config-dir nowhere", "no such folder"]),
    ("--config-path nowhere", ["--config-path nowhere", "no such folder"]),
    ("--config-name nothing", ["'nothing'"]),
    ("--experimental-rerun nowhere", ["--experimental-rerun nowhere", "No such file"]),
    ("--experimental-rerun nowhere -m", ["--experimental-rerun", "-m"]),
    ("--run -m", ["--run --multirun"]),
    ("--resolve", ["--resolve"]),
    ("--cfg foo", ["--cfg", "job"]),
]


@pytest.mark.parametrize("name", MAINS)
@pytest.mark.parametrize(("line", "words"), LINES, ids=[line for line, _ in LINES])
def test_a_line_that_is_wrong(
    invoke: Invoke, tiny_overrides: list[str], name: str, line: str, words: list[str]
) -> None:
    if name == "bench" and line.startswith(("train.resume", "seeds")):
        pytest.skip("a bench has none of these")
    given = tuple(line.split())
    assert_one_line(invoke(*tiny(tiny_overrides, given, name), *given, main=MAINS[name]), *words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nowhere", ["nowhere", "no such folder"]),
        ("--nonsense", ["--nonsense: unknown flag"]),
        ("--recommnd max_drop=1", ["did you mean --recommend?"]),
        ("--recommend", ["--recommend"]),
        ("--recommend foo", ["--recommend foo", "max_drop=POINTS"]),
        ("--compare a", ["--compare"]),
        ("--compare a b", ["a: no such folder"]),
        ("--out", ["--out"]),
        ("sqlite:///nowhere.db", ["sqlite:///nowhere.db"]),
        ("svd_rank=4", ["svd_rank=4"]),
    ],
)
def test_a_line_of_the_report_that_is_wrong(invoke: Invoke, line: str, words: list[str]) -> None:
    assert_one_line(invoke(main=lambda: report.main(line.split())), *words)


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("+sweep=tradeoff", "tpe, random"),  # which has parameters that not all trials share
        ("hydra/sweeper=search hydra.sweeper.study_name=x svd_rank=2,3", "tpe, random, grid"),
        (
            "hydra/sweeper=search hydra.sweeper.study_name=x svd_rank=2,3 hydra.sweeper.named=[]",
            "tpe, random, grid, gp, nsgaii",
        ),
    ],
)
@pytest.mark.parametrize("sampler", ["foo", "cmaes", "qmc"])
def test_only_samplers_that_are_taken_are_listed(
    invoke: Invoke, tiny_overrides: list[str], line: str, taken: str, sampler: str
) -> None:
    timed = tiny(tiny_overrides, ("measure.timing=after",))
    outcome = invoke(*timed, "-m", *line.split(), f"hydra/sweeper/sampler={sampler}")
    assert_one_line(outcome, "hydra/sweeper/sampler")
    listed = re.search(r"(?:one of|search;) (.*) (?:is allowed|are)$", outcome.message[0])
    assert listed is not None, outcome.message[0]
    assert listed[1] == taken


def test_a_table_without_data_table(invoke: Invoke, tiny_overrides: list[str]) -> None:
    kept = [each for each in tiny_overrides if each != "data=table"]
    for columns in (True, False):
        rest = kept if columns else [each for each in kept if "_column" not in each]
        outcome = invoke(*rest, "svd_rank=3")
        assert_one_line(outcome, "data.path=", "lines.csv", "data=table")


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
    monkeypatch.delitem(
        sys.modules, module + ("" if name == "report" else ".__main__"), raising=False
    )
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


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A config folder of a user's own: a model, a data set and two sweeps."""
    folder = tmp_path / "my conf"
    for group in ("data", "sweep", "experiment"):
        (folder / group).mkdir(parents=True)
    table = (CONF / "data" / "table.yaml").read_text()
    (folder / "data" / "mine.yaml").write_text(table.replace("table", "mine"))
    (folder / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nlora:\n  r: 2\nhydra:\n  sweeper:\n    params:\n      svd_rank: 2,3\n"
    )
    return folder


def test_a_config_folder_is_checked_before_the_first_job(
    invoke: Invoke, tiny_overrides: list[str], own_folder: Path
) -> None:
    outcome = invoke(
        *tiny(tiny_overrides, ("data=",)),
        f"--config-dir={own_folder}",
        *("-m", "data=mine", "svd_rank=3,4000"),
    )
    assert_one_line(outcome, "svd_rank=4000")


def again(outcome: Outcome) -> list[list[str]]:
    """The words of the command that a report prints for each run, after the module's name."""
    rows = load_records(str(outcome.folder)).to_dict("records")
    printed = [shlex.split(str(command(row))) for row in rows]
    assert all(words[:3] == ["python", "-m", "sparselora.run"] for words in printed)
    return [words[3:] for words in printed]


def test_the_command_of_a_report_runs_it_again(
    invoke: Invoke, tiny_overrides: list[str], own_folder: Path
) -> None:
    given = [*tiny(tiny_overrides, ("data=", "train.max_steps=")), "data=mine", "train.max_steps=5"]
    first = invoke(*given, "--config-dir", own_folder.name, "-m", "+sweep=mine")
    assert first.code == 0, first.err
    hashes = [record["config_hash"] for record in first.records()]
    assert len(set(hashes)) == 2
    assert [record["config"]["lora"]["r"] for record in first.records()] == [2, 2]
    for words, expected in zip(again(first), hashes, strict=True):
        assert "--config-dir" in words
        (outcome,) = [invoke(*words, "hydra.run.dir=again")]
        assert outcome.code == 0, outcome.err
        record = next(iter((outcome.folder / "again").rglob("record.json")))
        assert expected in record.read_text()
        record.unlink()


def test_the_command_of_a_trial_of_a_shipped_sweep(
    invoke: Invoke, tiny_overrides: list[str]
) -> None:
    given = [*tiny(tiny_overrides, ("train.max_steps=",)), "train.max_steps=5"]
    first = invoke(*given, "-m", "+sweep=headline", "svd_rank=3", "ffn_sparsity=0.5")
    assert first.code == 0, first.err
    ((words), (record,)) = again(first), first.records()
    assert not any("sweep" in word for word in words[0])
    assert invoke(*words[0], "hydra.run.dir=again").code == 0
    assert record["config_hash"] in (first.folder / "again" / "record.json").read_text()


@pytest.mark.parametrize("name", MAINS)
def test_paths_are_taken_from_where_the_user_stands(
    invoke: Invoke, tiny_overrides: list[str], table_file: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "lines.csv").write_text(table_file.read_text())
    extra = ["svd_rank=3", "hydra.job.chdir=true", "data.path=lines.csv"]
    if name == "run":
        extra += ["train.max_steps=5", "train.checkpoint_every=2"]
    else:
        extra += ["measure.max_rounds=2", "measure.min_rounds=2", "measure.batches=2"]
    outcome = invoke(*tiny(tiny_overrides, tuple(extra), name), *extra, main=MAINS[name])
    assert outcome.code == 0, outcome.err
    assert Path.cwd() == tmp_path
    assert len(list(tmp_path.glob("outputs/runs/*/*.json"))) == 1


def test_a_run_is_run_again_by_hydras_flag(invoke: Invoke, tiny_overrides: list[str]) -> None:
    given = [*tiny(tiny_overrides, ("train.max_steps=",)), "svd_rank=3", "train.max_steps=5"]
    assert invoke(*given, "hydra.run.dir=mine").code == 0
    outcome = invoke("--experimental-rerun", "mine")
    assert outcome.code == 2  # or what is there would be written over
    assert "holds results already" in outcome.message[0]
    assert invoke("--experimental-rerun", "mine", "hydra.run.dir=other").code == 0
    first, second = outcome.records()
    assert first["config_hash"] == second["config_hash"]


@pytest.mark.parametrize("place", ["/proc/nowhere/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_one_line(
    invoke: Invoke, tiny_overrides: list[str], place: str
) -> None:
    outcome = invoke(*tiny_overrides, "svd_rank=3", f"hydra.run.dir={place}")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert place.rsplit("/", 1)[0] in outcome.message[-1]
