from pathlib import Path

from optuna.trial import TrialState

from sparselora.search.study.attributes import ENDED, FOLDER, PROCESS
from sparselora.search.study.recovery import put_back, release
from tests.search.study.studies import DEAD, ask, opened, record, tell


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


def test_a_dead_process_whose_record_is_complete_is_finished_from_it(
    url: str, tmp_path: Path
) -> None:
    study = opened(url, named=[])
    trial = ask(study)
    record(tmp_path / "job")
    trial.set_user_attr(FOLDER, str(tmp_path / "job"))
    trial.set_user_attr(PROCESS, DEAD)
    told = opened(url, named=[]).trials[0]
    assert told.state is TrialState.COMPLETE
    assert told.values == [0.75, 8.0]
    assert told.user_attrs["run_id"] == "r"


def test_a_run_whose_timing_was_interrupted_is_begun_again(url: str, tmp_path: Path) -> None:
    study = opened(url, named=[])
    trial = ask(study)
    record(tmp_path / "job", ms_per_step=None, timing_error="interrupted by the user or a signal")
    trial.set_user_attr(FOLDER, str(tmp_path / "job"))
    trial.set_user_attr(PROCESS, DEAD)
    assert opened(url, named=[]).trials[0].state is TrialState.WAITING


def test_what_a_machine_left_that_will_not_come_back(url: str) -> None:
    ask(opened(url, named=[])).set_user_attr(PROCESS, DEAD | {"host": "gone"})
    assert opened(url, named=[]).trials[0].state is TrialState.RUNNING
    again = opened(url, named=[], release_hosts=["gone"])
    assert again.trials[0].state is TrialState.WAITING


def test_a_trial_that_is_released_at_will_does_not_count_as_ended(url: str) -> None:
    study = opened(url, named=[])
    number = ask(study).number
    with study.storage.locked():
        release(study, number)
    assert study.trials[number].state is TrialState.WAITING
    assert study.trials[number].user_attrs[ENDED] == 0
    assert study.trials[number].user_attrs[PROCESS] is None


def test_a_finished_trial_is_not_released(url: str) -> None:
    study = opened(url, named=[])
    number = ask(study).number
    tell(study, number)
    with study.storage.locked():
        release(study, number, counts=True)
    assert study.trials[number].state is TrialState.COMPLETE


def test_what_is_put_back_comes_first_with_what_was_drawn(url: str) -> None:
    study = opened(url, named=[])
    first = ask(study)
    value = first.suggest_float("x", 0, 1)
    with study.storage.locked():
        put_back(study, first.number, ended=2)
    again = ask(study)
    assert (again.number, again.suggest_float("x", 0, 1)) == (first.number, value)
    assert again.user_attrs[ENDED] == 2
