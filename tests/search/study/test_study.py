from pathlib import Path

import pytest
from optuna.trial import TrialState

from sparselora.errors import UserError
from sparselora.search.study.attributes import NAMED, PROCESS
from sparselora.search.study.study import SharedStudy
from tests.search.study.studies import DEAD, ask, opened, record, tell


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


def test_the_floor_under_accuracy_is_a_constraint(url: str) -> None:
    study = opened(url, max_drop=1.0, min_accuracy=0.1)
    for accuracy in (0.80, 0.785, 0.795):
        tell(study, ask(study).number, accuracy)
    assert study.accuracy_floor() == pytest.approx(0.79)
    found = [trial.constraints["accuracy"] for trial in study.trials[:3]]
    assert found == pytest.approx([-0.01, 0.005, -0.005])
    assert {trial.number for trial in study.front()} == {0}


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


def test_more_named_settings_come_beside_the_budget(url: str) -> None:
    study = opened(url, n_trials=2)
    for _ in range(2):
        tell(study, ask(study).number)
    assert ask(study) is None
    with study.storage.locked():
        study.extend(["fallback"])
    assert ask(study).user_attrs[NAMED] == "fallback"
    assert ask(study) is None


def test_an_attribute_is_the_studys_from_the_first_process_on(url: str) -> None:
    first, second = opened(url), opened(url)
    assert first.guard("key", "a", lambda there: f"was {there}") == "a"
    assert second.guard("key", "a", lambda there: f"was {there}") == "a"
    assert second.guard("key", "b", lambda _: "") == "a"
    with pytest.raises(UserError, match=r"^was a$"):
        second.guard("key", "b", lambda there: f"was {there}")


def test_only_step_times_are_bound_to_a_device(url: str) -> None:
    assert opened(url).bound_objectives() == ["ms_per_step"]
    other = opened(None, objectives=["accuracy", "speedup"])
    assert other.bound_objectives() == []
