from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sparselora.errors import UserError
from sparselora.machine.process import identity
from sparselora.records.record import COMPLETED, RECORD_NAME, write_record
from sparselora.search.study.attributes import ENDED, FOLDER, NAMED, PROCESS
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.recovery import recover
from sparselora.search.study.storage import Storage
from sparselora.search.study.study import SharedStudy, derived_seed

DEAD = {"host": identity()["host"], "boot_id": "an earlier boot", "pid": 1, "process_start": 0.0}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'there' / 'study.db'}"


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "name": "s",
        "objectives": ["accuracy", "ms_per_step"],
        "n_trials": 5,
        "named": ["dense", "original"],
        "seed": 1,
        "make_sampler": optuna.samplers.RandomSampler,
    }
    return Plan(**(settings | changes))


def opened(url: str, **changes: Any) -> SharedStudy:
    study = SharedStudy(Storage(url), plan(**changes))
    with study.storage.locked():
        recover(study)
    return study


def ask(study: SharedStudy) -> Any:
    with study.storage.locked():
        return study.ask()


def tell(study: SharedStudy, number: int, accuracy: float = 0.8, ms: float = 9.0) -> None:
    with study.storage.locked():
        study.tell(number, Outcome([accuracy, ms], None, {"accuracy": accuracy}))


def record(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True)
    content = {
        "status": COMPLETED,
        "run_id": "r",
        "metrics": {"validation": {"accuracy": 0.75}},
        "ms_per_step": 8.0,
        "timing": {"speedup": 1.5},
        "dense_reference_ms": 12.0,
        "dense_reference_key": "k",
    }
    write_record(folder / RECORD_NAME, content | changes)


def test_named_trials_come_first_and_once(url: str) -> None:
    study = opened(url)
    opened(url)  # another process
    names = [ask(study).user_attrs.get(NAMED) for _ in range(3)]
    assert names == ["dense", "original", None]
    assert study.remaining() == 2


def test_the_budget_is_one_over_restarts(url: str) -> None:
    study = opened(url)
    for _ in range(5):
        tell(study, ask(study).number)
    assert ask(study) is None
    assert ask(opened(url)) is None
    assert ask(opened(url, n_trials=6)).number == 5


def test_what_a_dead_process_left_is_begun_again_as_it_was(url: str) -> None:
    study = opened(url, named=[])
    first = ask(study)
    value = first.suggest_float("x", 0, 1)
    first.set_user_attr(PROCESS, DEAD)
    again = opened(url, named=[])
    assert again.trials[first.number].state is TrialState.WAITING
    assert again.trials[first.number].user_attrs[ENDED] == 1
    assert again.remaining() == 5
    second = ask(again)
    assert (second.number, second.suggest_float("x", 0, 1)) == (first.number, value)
    assert again.remaining() == 4


def test_a_trial_that_takes_its_process_along_too_often_has_failed(url: str) -> None:
    for _ in range(4):
        ask(opened(url, named=[])).set_user_attr(PROCESS, DEAD)
    trial = opened(url, named=[]).trials[0]
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["reason"] == "its process has ended 4 times before it did"


def test_a_trial_that_was_asked_and_never_stamped_is_no_ones(url: str) -> None:
    study = opened(url, named=[])
    study.study.ask()
    assert opened(url, named=[]).trials[0].state is TrialState.WAITING


def test_live_processes_here_and_all_elsewhere_are_left_alone(url: str) -> None:
    study = opened(url, named=[])
    here, elsewhere = ask(study), ask(study)
    elsewhere.set_user_attr(PROCESS, DEAD | {"host": "elsewhere"})
    again = opened(url, named=[])
    assert [again.trials[one.number].state for one in (here, elsewhere)] == [TrialState.RUNNING] * 2
    assert again.remaining() == 3


def test_a_dead_process_whose_record_is_complete_is_told_from_it(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    trial = ask(study)
    record(tmp_path / "job")
    trial.set_user_attr(FOLDER, str(tmp_path / "job"))
    trial.set_user_attr(PROCESS, DEAD)
    told = opened(url, named=[]).trials[0]
    assert told.state is TrialState.COMPLETE
    assert told.values == [0.75, 8.0]
    assert told.user_attrs["run_id"] == "r"


def test_a_run_whose_timing_was_interrupted_is_not_told(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    trial = ask(study)
    record(tmp_path / "job", ms_per_step=None, timing_error="interrupted by the user or a signal")
    trial.set_user_attr(FOLDER, str(tmp_path / "job"))
    trial.set_user_attr(PROCESS, DEAD)
    assert opened(url, named=[]).trials[0].state is TrialState.WAITING


def test_values_that_are_no_numbers_never_reach_the_study(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    number = ask(study).number
    record(tmp_path / "job", ms_per_step=float("nan"))
    with study.storage.locked():
        outcome = study.outcome(tmp_path / "job")
        assert outcome is not None
        study.tell(number, outcome)
    assert study.trials[number].state is TrialState.FAIL
    assert study.trials[number].user_attrs["reason"] == "no ms_per_step in the record"
    assert len(study.failed()) == 1


def test_one_dense_reference_for_all_processes(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    record(tmp_path / "first")
    record(tmp_path / "second", dense_reference_ms=15.0, ms_per_step=10.0)
    with study.storage.locked():
        first = study.outcome(tmp_path / "first")
        second = study.outcome(tmp_path / "second")
    assert first is not None
    assert second is not None
    assert (first.values, second.values) == ([0.75, 8.0], [0.75, 8.0])


def test_draws_follow_from_the_seed_and_the_trials_so_far(url: str, tmp_path: Path) -> None:
    def draws(study: SharedStudy, count: int) -> list[tuple[float, float]]:
        found = []
        for _ in range(count):
            trial = ask(study)
            values = []
            for key in ("x", "y"):
                study.reseed(key)
                values.append(trial.suggest_float(key, 0, 1))
            found.append((values[0], values[1]))
            tell(study, trial.number, values[0])
        return found

    straight = draws(opened(f"sqlite:///{tmp_path / 'a.db'}"), 5)
    stopped = draws(opened(url), 2)
    study = opened(url)
    begun = ask(study)  # and its process dies between two draws of one trial
    study.reseed("x")
    begun.suggest_float("x", 0, 1)
    begun.set_user_attr(PROCESS, DEAD)
    stopped += draws(opened(url), 3)
    assert stopped == straight
    assert len(set(straight)) == 5
    assert all(x != y for x, y in straight)
    assert (
        len({derived_seed(seed, place) for seed in (1, 2) for place in ("0/x", "0/y", "1/x")}) == 6
    )


def test_the_floor_under_accuracy_is_a_constraint(url: str) -> None:
    study = opened(url, max_drop=1.0, min_accuracy=0.1)
    for accuracy in (0.80, 0.785, 0.795):
        tell(study, ask(study).number, accuracy)
    assert study.accuracy_floor() == pytest.approx(0.79)
    found = [trial.constraints["accuracy"] for trial in study.trials[:3]]
    assert found == pytest.approx([-0.01, 0.005, -0.005])
    assert {trial.number for trial in study.front()} == {0}


def test_the_front_keeps_to_the_floor_whenever_it_was_known(url: str) -> None:
    study = opened(url, named=["original", "dense"], max_drop=1.0)
    for accuracy, ms in ((0.70, 5.0), (0.80, 9.0), (0.795, 7.0), (0.795, 8.0)):
        tell(study, ask(study).number, accuracy, ms)
    assert [trial.number for trial in study.front()] == [1, 2]


def test_what_a_machine_left_that_will_not_come_back(url: str) -> None:
    ask(opened(url, named=[])).set_user_attr(PROCESS, DEAD | {"host": "gone"})
    assert opened(url, named=[]).trials[0].state is TrialState.RUNNING
    again = opened(url, named=[], release_hosts=["gone"])
    assert again.trials[0].state is TrialState.WAITING


def test_a_run_of_another_device_has_no_place_in_the_study(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    for name in ("first", "second"):
        record(tmp_path / name, provenance={"device": name, "threads": 2})
    with study.storage.locked():
        first, second = (study.outcome(tmp_path / name) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert first.values == [0.75, 8.0]
    assert second.reason == "ran on second, 2 threads, and the study is of first, 2 threads"


def test_another_set_of_objectives_is_another_study(url: str) -> None:
    opened(url)
    with pytest.raises(
        UserError, match=r"\[accuracy\]: the study 's' .* has \[accuracy,ms_per_step\]"
    ):
        opened(url, objectives=["accuracy"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nonsense", "a URL such as"),
        ("oracle://x", "sqlite, postgresql or mysql"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be used"),
        ("sqlite:////proc/none/study.db", "cannot be made"),
        ("sqlite:///.", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_a_line(
    bad: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        Storage(bad)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"hydra.sweeper.storage={bad}: ")
