"""Recover trials whose processes died: each is finished from its record, or begun again.

All of it is to be called under the storage's lock.
"""

from pathlib import Path

from optuna.trial import TrialState

from sparselora.machine.process import is_dead
from sparselora.search.study.attributes import ENDED, FOLDER, PROCESS
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.study import SharedStudy


def recover(study: SharedStudy) -> None:
    """Release the running trials that dead processes left."""
    for trial in study.running():
        owner = trial.user_attrs.get(PROCESS)
        # Trials are stamped under the lock that is held now: without a stamp there is no owner.
        given_up = owner is not None and owner["host"] in study.plan.release_hosts
        if owner is None or given_up or is_dead(owner):
            release(study, trial.number, counts=True)


def release(study: SharedStudy, number: int, counts: bool = False) -> None:
    """Finish from its record a trial that nobody runs, or put it back where that is incomplete.

    A trial that is put back keeps its number, and what was drawn for it.

    Args:
        study: that holds the trial.
        number: of the trial.
        counts: whether its process died; a trial that takes too many along has failed.
    """
    trial = study.trials[number]
    if trial.state is not TrialState.RUNNING:
        return
    folder = trial.user_attrs.get(FOLDER)
    outcome = None if folder is None else study.outcome(Path(folder))
    ended = trial.user_attrs.get(ENDED, 0) + counts
    if outcome is None and ended > study.plan.max_interruptions:
        outcome = Outcome.failed(f"its process has ended {ended} times before it did")
    if outcome is not None:
        study.tell(number, outcome)
    else:
        put_back(study, number, ended)


def put_back(study: SharedStudy, number: int, ended: int = 0) -> None:
    """Let a running trial be begun again by whoever asks next.

    Args:
        study: that holds the trial.
        number: of the trial.
        ended: how often its process has died.
    """
    storage, trial_id = study.storage.optuna, study.trial_id(number)
    for name, value in {PROCESS: None, FOLDER: None, ENDED: ended}.items():
        storage.set_trial_user_attr(trial_id, name, value)
    storage.set_trial_state_values(trial_id, TrialState.WAITING)
