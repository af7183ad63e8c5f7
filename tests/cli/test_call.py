import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

import sparselora
from sparselora import UserError
from sparselora.cli.call import _composed
from sparselora.cli.hydra_setup import SweepsSearchPath
from tests.conftest import Outcome


def test_a_call_is_the_run_of_the_command(
    invoke, tiny_overrides: list[str], tmp_path: Path
) -> None:
    overrides = [*tiny_overrides, "svd_rank=3", "ffn_sparsity=0.5"]
    outcome: Outcome = invoke(*overrides)
    assert outcome.code == 0, outcome.err
    (typed,) = outcome.records()
    called = [sparselora.fine_tune(overrides, tmp_path / name) for name in ("one", "two")]
    for record in called:
        on_disk = json.loads((record.folder / "record.json").read_text())
        assert on_disk == json.loads(json.dumps(record.content.to_dict()))
        assert on_disk["status"] == "completed"
        for key in (
            "label",
            "experiment",
            "config",
            "config_hash",
            "overrides",
            "metrics",
            "sparsity",
        ):
            assert on_disk[key] == typed[key], key
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nope=1"], "nope: unknown key"),
        (["svd_rank=0"], "svd_rank=0: a whole number"),
        (["seed=1,2"], "seed=1,2: a sweep; one call is one run"),
        (["seeds=[1,2]"], "seeds=.* one call is one run"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: without effect in a call"),
        (["hydra/sweeper=search"], "hydra/sweeper=search: without effect in a call"),
        (["bench.batch_size=4"], "bench.batch_size: without effect"),
        (["model=nope"], "model=nope: unknown; must be one of"),
        (["ffn_sparsity=abc"], "ffn_sparsity=abc: a number is allowed"),
        (["experiment=dense", "ffn_sparsity=0.5"], "ffn_sparsity"),
        (["train.resume=nowhere"], "nowhere"),
        ("seed=1", r"overrides='seed=1': a list such as"),
        (None, "overrides=None: a list such as"),
        ([1], "overrides: 1: a text such as"),
        (["+sweep=headline"], "takes -m"),
    ],
)
def test_a_mistake_is_the_commands_line_and_trains_nothing(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        sparselora.fine_tune(overrides, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_overrides_may_be_any_iterable(tiny_overrides: list[str], tmp_path: Path) -> None:
    """A generator was read once, by the first of several checks, and the defaults were trained."""
    overrides = [*tiny_overrides, "train.max_steps=2", "measure.eval_every=null"]
    overrides.remove("train.max_steps=10")
    overrides.remove("measure.eval_every=5")
    record = sparselora.fine_tune((each for each in overrides), tmp_path / "run")
    assert record.content.overrides == overrides
    assert record.content.config["train"]["max_steps"] == 2


def test_a_relative_folder_is_named_by_where_it_lies(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    record = sparselora.fine_tune([*tiny_overrides, "train.keep_checkpoints=none"], "a")
    assert record.content.run_id == "mine/a"
    assert record.folder == tmp_path / "mine" / "a"
    with pytest.raises(UserError, match="folder=: a folder is needed"):
        sparselora.fine_tune(tiny_overrides, "")


def test_one_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="each of 2 processes would train the same run"):
        sparselora.fine_tune(["nope=1"])


def test_threads_take_turns_and_leave_hydra_as_it_was() -> None:
    def compose_one(index: int) -> int:
        for _ in range(3):
            run, _choices = _composed([f"seed={index}"], None)
            assert run.seed == index
        return index

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(compose_one, range(1, 5))) == [1, 2, 3, 4]
    assert not GlobalHydra.instance().is_initialized()


def test_a_file_of_options_that_is_no_yaml_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "estimator").mkdir()
    (tmp_path / "estimator" / "bad.yaml").write_text("foo: [")
    with pytest.raises(UserError, match=r"a config file is no YAML: .*bad\.yaml") as raised:
        sparselora.fine_tune(["estimator=bad"], config_folder=tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(UserError, match="holds results already"):
        sparselora.fine_tune([], tmp_path)
    assert (tmp_path / "record.json").read_text() == "{}"


def test_options_of_ones_own(tiny_overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    mine = "# @package _global_\nffn_sparsity: 0.4\nsvd_rank: 2\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(mine)
    with pytest.raises(UserError, match="no such folder"):
        sparselora.fine_tune([], tmp_path / "run", config_folder=tmp_path / "none")
    record = sparselora.fine_tune(
        [*tiny_overrides, "experiment=mine", "schedule=uniform"],
        tmp_path / "run",
        config_folder=tmp_path / "conf",
    )
    assert record.content.config["ffn_sparsity"] == 0.4
    flags = record.content.config_flags
    assert flags == ["--config-dir", str((tmp_path / "conf").resolve())]


def test_inside_another_hydra_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SweepsSearchPath, "active", False)  # no command runs in their process
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "main.yaml").write_text("defaults: [schema, _self_]\n")
    store = ConfigStore.instance()
    before = store.repo.get("schema.yaml")
    store.store(name="schema", node={"theirs": 1})
    try:
        with initialize_config_dir(str(tmp_path / "theirs"), version_base=None):
            assert compose("main") == {"theirs": 1}
            with pytest.raises(UserError):
                sparselora.fine_tune(["nope=1"])
            assert compose("main") == {"theirs": 1}
            # Our group of that name is none of theirs.
            assert compose("main", overrides=["+sweep=headline"]) == {
                "theirs": 1,
                "sweep": "headline",
            }
    finally:
        if before is not None:
            store.repo["schema.yaml"] = before


def test_ctrl_c_leaves_a_record_that_says_so(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparselora.training.stepper.Stepper.step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sparselora.fine_tune(tiny_overrides, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "interrupted"
