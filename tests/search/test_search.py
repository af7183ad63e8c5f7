"""Searches with the real task function, on a tiny model."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from sparselora.config.identity import content_hash
from sparselora.runs import setup
from sparselora.search import search as search_module
from sparselora.search.study.attributes import DUPLICATE_OF, ENDED, LABEL, REASON
from tests.conftest import Outcome


def trials(folder: Path, name: str = "tradeoff") -> list[FrozenTrial]:
    storage = f"sqlite:///{folder / 'outputs' / 'study.db'}"
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_a_search_and_the_same_command_again(
    invoke: Callable[..., Outcome], searching: Sequence[str]
) -> None:
    outcome = invoke(*searching, "hydra.sweeper.n_trials=6")
    assert outcome.code == 0, outcome.err
    found = trials(outcome.folder)
    labels = [trial.user_attrs[LABEL] for trial in found]
    assert labels[:4] == ["dense", "original", "optimized", "fallback"]
    assert len(found) == 6
    records = {record["run_id"]: record for record in outcome.records()}
    for trial in found:
        record = records[trial.user_attrs["run_id"]]
        assert trial.values[0] == record["metrics"]["validation"]["accuracy"]
        assert record["label"] == trial.user_attrs[LABEL]
        assert Path(trial.user_attrs["folder"]).name == str(trial.number)
    assert "trial 5, 6 of 6" in outcome.out
    assert "Pareto front so far" in outcome.out

    again = invoke(*searching, "hydra.sweeper.n_trials=6")
    assert again.code == 0
    assert "6 of 6 trials done; raise hydra.sweeper.n_trials to go on" in again.out
    assert len(again.records()) == 6
    assert len(trials(again.folder)) == 6


def test_ctrl_c_loses_nothing_but_the_run_and_the_same_command_goes_on(
    invoke: Callable[..., Outcome], searching: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = invoke(*searching, "hydra.sweeper.n_trials=6", "hydra.sweeper.study_name=straight")
    original, calls = setup.load_model, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 6):
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(setup, "load_model", interrupted)
    codes = [invoke(*searching, "hydra.sweeper.n_trials=6").code for _ in range(3)]
    assert codes == [130, 130, 0]
    found = trials(straight.folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 6
    expected = trials(straight.folder, "straight")
    for name in ("overrides", "accuracy"):
        assert [one.user_attrs[name] for one in found] == [one.user_attrs[name] for one in expected]


def test_a_search_stopped_between_two_draws_of_a_trial_draws_what_it_would_have(
    invoke: Callable[..., Outcome], searching: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rest had been drawn with the random numbers of the first: a killed search drew other settings.
    rest = ["hydra.sweeper.named=[]", "hydra.sweeper.n_trials=2"]
    straight = invoke(*searching, *rest, "hydra.sweeper.study_name=straight")
    original = optuna.trial.Trial.suggest_categorical

    def interrupted(self: optuna.trial.Trial, *arguments: Any) -> Any:
        original(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optuna.trial.Trial, "suggest_categorical", interrupted)
        assert invoke(*searching, *rest).code == 130
    assert invoke(*searching, *rest).code == 0
    expected = trials(straight.folder, "straight")
    assert [one.params for one in trials(straight.folder)] == [one.params for one in expected]


def test_a_run_that_fails_has_its_reason_and_the_search_goes_on(
    invoke: Callable[..., Outcome], searching: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = setup.load_model, []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("CUDA out of memory")
        return original(*arguments)

    monkeypatch.setattr(setup, "load_model", failing)
    outcome = invoke(*searching, "hydra.sweeper.n_trials=5")
    assert outcome.code == 0
    found = trials(outcome.folder)
    assert [trial.state.name for trial in found].count("FAIL") == 1
    assert found[2].user_attrs[REASON] == "MemoryError: CUDA out of memory"
    assert "failed: optimized: MemoryError: CUDA out of memory" in outcome.out


@pytest.mark.parametrize("complete", [True, False])
def test_a_worker_that_the_system_ends_takes_at_most_its_trial(
    invoke: Callable[..., Outcome],
    searching: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    complete: bool,
) -> None:
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    original, calls = BasicLauncher.launch, []

    def launch(self: BasicLauncher, *positional: Any, **named: Any) -> Any:
        found = original(self, *positional, **named)
        if named["initial_job_idx"] == 1:
            path = Path("outputs").resolve().rglob("1/record.json")
            for one in () if complete or calls else path:
                one.write_text('{"status": "running"}')  # as a process that is ended leaves it
                calls.append(1)
            raise RuntimeError("a worker process was ended by the system")
        return found

    monkeypatch.setattr(BasicLauncher, "launch", launch)

    outcome = invoke(*searching, "hydra.sweeper.n_trials=3")
    assert outcome.code == 0, outcome.err
    found = trials(outcome.folder)
    assert [trial.state.name for trial in found][:3] == ["COMPLETE"] * 3
    assert found[1].user_attrs.get(ENDED, 0) == (0 if complete else 1)
    assert "a worker was lost (RuntimeError: a worker process was ended" in outcome.out
    assert len(outcome.records()) == (3 if complete else 4)


def test_too_many_failures_end_it(invoke: Callable[..., Outcome], searching: Sequence[str]) -> None:
    outcome = invoke(*searching, "train.learning_rate=1e30", "hydra.sweeper.n_trials=8")
    assert outcome.code == 1
    assert outcome.message[-1].startswith("error: 4 of 4 trials failed, and hydra.sweeper.max_fail")
    assert all(trial.values is None for trial in trials(outcome.folder))


def test_a_full_disk_is_a_line_and_the_trial_is_begun_again(
    invoke: Callable[..., Outcome], searching: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(setup, "load_model", full)
        outcome = invoke(*searching, "hydra.sweeper.n_trials=1")
    assert outcome.code == 2
    assert "No space left on device; make room: the same command goes on" in outcome.message[-1]
    assert invoke(*searching, "hydra.sweeper.n_trials=1").code == 0
    states = [trial.state.name for trial in trials(outcome.folder)]
    assert states.count("COMPLETE") == 1


def test_a_known_setting_is_answered_and_counted_apart(
    invoke: Callable[..., Outcome], searching: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A dirty tree re-uses nothing, and tests run in one.
    monkeypatch.setattr(search_module, "fingerprint", lambda run, *_: content_hash(run))
    space = [f"{key}=0.1" for key in ("sparse_warmup_ratio",)]
    space += ["schedule=uniform", "estimator=svd", "compensation=none", "svd_rank=4,8"]
    outcome = invoke(
        *(item for item in searching if not item.startswith("calibration")),
        *space,
        "ffn_sparsity=0.5",
        "hydra.sweeper.named=[dense]",
        "hydra.sweeper.n_trials=9",
        "hydra.sweeper.max_duplicates=6",
    )
    assert outcome.code == 0, outcome.err
    found = trials(outcome.folder)
    doubles = [trial for trial in found if trial.user_attrs.get(DUPLICATE_OF) is not None]
    assert len(outcome.records()) == len(found) - len(doubles) == 3
    assert len(doubles) >= 6
    for trial in doubles:
        assert trial.values == found[trial.user_attrs[DUPLICATE_OF]].values
    assert "6 draws in a row were settings that the study knows" in outcome.out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["train.max_steps=5"], "train.max_steps=5: the study 'tradeoff' was begun with 4"),
        (
            ["hydra.sweeper.objectives=[accuracy]"],
            "hydra.sweeper.objectives=[accuracy]: the study 'tradeoff'",
        ),
        (
            ["hydra.sweeper.max_drop=1", "hydra.sweeper.named=[dense]"],
            "hydra.sweeper.max_drop=1.0: the study 'tradeoff' was begun with null",
        ),
        (
            ["svd_rank=5,6,7", "estimator=svd", "hydra.sweeper.n_trials=9"],
            "hydra.sweeper.params.svd_rank: the study 'tradeoff' knows it with other values",
        ),
    ],
)
def test_a_study_is_never_mixed_with_another(
    invoke: Callable[..., Outcome], searching: list[str], extra: list[str], message: str
) -> None:
    rest = ["hydra.sweeper.n_trials=2", "hydra.sweeper.named=[]", "estimator=svd"]
    assert invoke(*searching, *rest).code == 0
    own = {item.split("=")[0] for item in extra}
    kept = [item for item in (*searching, *rest) if item.split("=")[0] not in own]
    outcome = invoke(*kept, *extra)
    assert outcome.code == 2
    assert message in outcome.message[-1]
    assert len(outcome.records()) == 2


def test_a_grid_is_walked_once(
    invoke: Callable[..., Outcome], searching: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each draw has a sampler of its own, and the grid's points are numbered by its sampler's seed.
    space = ["schedule=uniform", "estimator=svd", "compensation=none", "sparse_warmup_ratio=0.1"]
    outcome = invoke(
        *(item for item in searching if not item.startswith("calibration")),
        *space,
        "ffn_sparsity=0.5,0.7",
        "svd_rank=2,4",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.named=[dense]",
    )
    assert outcome.code == 0, outcome.err
    found = trials(outcome.folder)
    assert len(found) == 5
    assert len({tuple(trial.user_attrs["overrides"]) for trial in found}) == 5


def test_the_plugin_as_it_is_goes_on_working(
    invoke: Callable[..., Outcome], tiny_overrides: list[str]
) -> None:
    outcome = invoke(
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.direction=[maximize,minimize]",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=1",
        "svd_rank=2,4",
        *tiny_overrides,
    )
    assert outcome.code == 0, outcome.err
    assert len(outcome.records()) == 2


def test_records_and_trials_join(invoke: Callable[..., Outcome], searching: list[str]) -> None:
    outcome = invoke(*searching, "hydra.sweeper.named=[dense,original]", "hydra.sweeper.n_trials=2")
    from sparselora import load_records
    from sparselora.report.loading.study import load_study

    url = f"sqlite:///{outcome.folder / 'outputs' / 'study.db'}"
    joined = load_study(url, records=load_records(outcome.folder))
    assert joined["run.label"].tolist() == ["dense", "original"]
    assert (
        json.loads(json.dumps(joined["run.accuracy"].tolist()))
        == joined["values_accuracy"].tolist()
    )
