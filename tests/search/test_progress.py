import io

import pytest
from rich.console import Console

from sparselora.search.progress import SearchProgress
from sparselora.search.study.attributes import DUPLICATE_OF, LABEL, PROCESS
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.study import SharedStudy
from tests.search.study.studies import ask, opened


class Shown:
    """A study's progress, and what it has printed since one last looked."""

    def __init__(self, study: SharedStudy) -> None:
        self._file = io.StringIO()
        self.progress = SearchProgress(study, Console(file=self._file, width=120))

    def text(self) -> str:
        found = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return found


def finish(study: SharedStudy, accuracy: float | None, **attributes: object) -> int:
    trial = ask(study)
    trial.set_user_attr(LABEL, f"setting {trial.number}")
    outcome = Outcome.failed("out of memory")
    if accuracy is not None:
        outcome = Outcome([accuracy, 9.0 - accuracy], None, {"accuracy": accuracy, **attributes})
    study.tell(trial.number, outcome)
    return int(trial.number)


def test_it_says_where_the_study_stands() -> None:
    study = opened(None, named=[], n_trials=2)
    shown = Shown(study)
    shown.progress.begin()
    assert shown.text() == "study s in memory: 0 of 2 trials done\n"
    finish(study, 0.8)
    ask(study)
    shown = Shown(study)
    shown.progress.begin()
    assert shown.text() == "study s in memory: 1 of 2 trials done, 1 running elsewhere\n"


def test_time_left_is_known_from_the_first_trial_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sparselora.search.progress.time.monotonic", lambda: now[0])
    study = opened(None, named=[], n_trials=5)
    shown = Shown(study)
    shown.progress.begins(0, "first")
    assert shown.text() == "trial 0, 1 of 5: first\n"
    finish(study, 0.8)
    now[0] = 1200.0
    shown.progress.begins(1, "second")
    assert shown.text() == "trial 1, 2 of 5, about 1 h 20 min left: second\n"


def test_a_trial_that_is_better_shows_the_front() -> None:
    study = opened(None, named=[])
    shown = Shown(study)
    speed = {"speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6, "seeds": [1, 2]}
    number = finish(study, 0.8, **speed)
    shown.progress.reported(study.trials[number])
    text = shown.text()
    assert "accuracy 0.8000, ms_per_step 8.2, 1.50 × stock (1.40 to 1.60), mean of 2 seeds" in text
    assert "Pareto front so far" in text
    number = finish(study, None)
    shown.progress.reported(study.trials[number])
    assert shown.text() == f"failed: setting {number}: out of memory\n"


def test_the_end_says_what_is_left() -> None:
    study = opened(None, named=[])
    finish(study, 0.8)
    finish(study, None)
    running = ask(study)
    running.set_user_attr(PROCESS, {"host": "elsewhere"})
    duplicate = ask(study)
    duplicate.set_user_attr(DUPLICATE_OF, 0)
    shown = Shown(study)
    shown.progress.end(["a verdict"])
    text = shown.text()
    assert "2 trials, 1 of them failed, 1 more answered from these" in text
    assert f"trial {running.number} still runs on elsewhere" in text
    assert "hydra.sweeper.release_hosts=[elsewhere]" in text
    assert text.endswith("a verdict\n")
