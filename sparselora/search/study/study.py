"""Share one Optuna study between any number of processes that come, die and come again.

What a trial is stands in its user attributes; see `sparselora.search.study.attributes`.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from sparselora.errors import UserError
from sparselora.machine.process import identity
from sparselora.search.study.attributes import (
    DEVICE,
    DUPLICATE_OF,
    LABEL,
    NAMED,
    PROCESS,
    REASON,
)
from sparselora.search.study.front import pareto_front
from sparselora.search.study.outcome import OBJECTIVES, Outcome, read_outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.references import agree
from sparselora.search.study.storage import Storage

RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING
COMPLETE, FAIL = TrialState.COMPLETE, TrialState.FAIL


class SharedStudy:
    """Open or begin the study of a plan.

    Args:
        storage: where it is.
        plan: what this process asks of it.
        check: of the study, before anything in it is changed.

    Raises:
        UserError: the storage cannot be used, or holds the study with other objectives.
    """

    def __init__(
        self,
        storage: Storage,
        plan: Plan,
        check: Callable[["SharedStudy"], None] = lambda _: None,
    ) -> None:
        self.storage, self.plan = storage, plan
        self._position = 0
        with storage.locked():
            self._check_objectives()
            self.study = optuna.create_study(
                storage=storage.optuna,
                study_name=plan.name,
                directions=[OBJECTIVES[name].direction for name in plan.objectives],
                load_if_exists=True,
            )
            with warnings.catch_warnings():  # it may change, says Optuna; the dashboard wants it
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.study.set_metric_names(list(plan.objectives))
            check(self)
            self._enqueue_named()

    @property
    def trials(self) -> list[FrozenTrial]:
        """Return all trials, as they stand in the storage now."""
        return self.study.get_trials(deepcopy=False)

    def counted(self) -> list[FrozenTrial]:
        """Return the trials that are finished, and part of the budget."""
        return [
            trial
            for trial in self.trials
            if trial.state in (COMPLETE, FAIL) and trial.user_attrs.get(DUPLICATE_OF) is None
        ]

    def failed(self) -> list[FrozenTrial]:
        """Return the counted trials that have no values."""
        return [trial for trial in self.counted() if trial.state is FAIL]

    def running(self) -> list[FrozenTrial]:
        """Return the trials that some process has begun, and not finished."""
        return [trial for trial in self.trials if trial.state is RUNNING]

    def remaining(self) -> int:
        """Return how many trials of the budget nobody has begun."""
        return self.plan.n_trials - len(self.counted()) - len(self.running())

    def ask(self) -> Trial | None:
        """Take the next trial, this process's own from here on; None where the budget is spent.

        To be called under the storage's lock, which is to be kept until the trial is drawn, and after
        `sparselora.search.study.recovery.recover`.
        """
        if self.remaining() <= 0:
            return None
        waiting = [trial.number for trial in self.trials if trial.state is WAITING]
        self._position = min(waiting, default=len(self.trials))
        self.reseed("")
        trial = self.study.ask()
        trial.set_user_attr(PROCESS, identity())
        _ = trial.relative_params  # drawn now, from this seed
        return trial

    def reseed(self, key: str) -> None:
        """Seed the sampler for one key of the trial in hand.

        The seed follows from the plan's seed, the trial's number and the key alone: so the draws of a
        search that was stopped, anywhere, are those of one that never was, and none is repeated.
        """
        self.study.sampler = self.plan.make_sampler(self.plan.seed_at(f"{self._position}/{key}"))

    def tell(self, number: int, outcome: Outcome) -> FrozenTrial:
        """Finish a running trial with its outcome. To be called under the storage's lock."""
        trial = Trial(self.study, self.trial_id(number))
        for name, value in outcome.attributes.items():
            trial.set_user_attr(name, value)
        if outcome.values is None:
            trial.set_user_attr(REASON, outcome.reason)
        else:
            self._constrain(trial, outcome)
        state = FAIL if outcome.values is None else COMPLETE
        # The grid sampler, if told, would stop a loop of Optuna's own; here is none.
        self.study.sampler = RandomSampler()
        return self.study.tell(trial, values=outcome.values, state=state)

    def outcome(self, folder: Path) -> Outcome | None:
        """Return the outcome of a job, on the study's dense reference; see `read_outcome`.

        To be called under the storage's lock.
        """
        agree(self.study, folder)
        found = read_outcome(folder, self.plan.objectives)
        device = None if found is None else found.attributes.get(DEVICE)
        if found is None or found.values is None or device is None or not self.bound_objectives():
            return found
        guarded = self.guard(DEVICE, device, lambda _: "")
        if guarded == device:
            return found
        return Outcome(None, f"ran on {device}, and the study is of {guarded}", found.attributes)

    def bound_objectives(self) -> list[str]:
        """Return the names of the objectives whose figures of two devices may not meet."""
        return [name for name in self.plan.objectives if OBJECTIVES[name].of_device]

    def extend(self, names: Sequence[str]) -> None:
        """Add named settings to the plan, beside the budget so far.

        To be called under the storage's lock.
        """
        begun = len(self.counted()) + len(self.running())
        self.plan = replace(
            self.plan,
            named=[*self.plan.named, *names],
            n_trials=max(self.plan.n_trials, begun) + len(names),
        )
        self._enqueue_named()

    def guard(self, name: str, value: Any, problem: Callable[[Any], str]) -> Any:
        """Return the study's attribute of a name; where there is none, a value becomes it.

        Args:
            name: of the attribute.
            value: what it is in this search.
            problem: says what is wrong with another value that the study has; empty where it may stay.

        Raises:
            UserError: the study has another value, and `problem` has a message for it.
        """
        there = self.study.user_attrs.get(name)
        if there is None:
            self.study.set_user_attr(name, value)
            return value
        message = problem(there) if there != value else ""
        if message:
            raise UserError(message)
        return there

    def trial_id(self, number: int) -> int:
        """Return the name that the storage gives the trial of a number."""
        storage = self.storage.optuna
        study_id = storage.get_study_id_from_name(self.plan.name)
        return storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def accuracy_floor(self, dense: float | None = None) -> float | None:
        """Return what `min_accuracy` and `max_drop` come to, in [0, 1]; None where nothing is asked yet.

        Args:
            dense: the accuracy of the `dense` trial; None looks for it in the study.
        """
        floors = [] if self.plan.min_accuracy is None else [self.plan.min_accuracy]
        if self.plan.max_drop is not None:
            found = [
                trial.user_attrs["accuracy"]
                for trial in self.trials
                if trial.state is COMPLETE and trial.user_attrs.get(NAMED) == "dense"
            ]
            found = found if dense is None else [dense]
            floors += [accuracy - self.plan.max_drop / 100 for accuracy in found[:1]]
        return max(floors, default=None)

    def front(self) -> list[FrozenTrial]:
        """Return the trials above the accuracy floor that no other one beats in every objective."""
        complete = [trial for trial in self.counted() if trial.state is COMPLETE]
        return pareto_front(complete, self.study.directions, self.accuracy_floor())

    def _constrain(self, trial: Trial, outcome: Outcome) -> None:
        accuracy = outcome.attributes.get("accuracy")
        is_dense = trial.user_attrs.get(NAMED) == "dense"
        floor = self.accuracy_floor(accuracy if is_dense else None)
        known = self.trials[trial.number].constraints
        if floor is not None and accuracy is not None and "accuracy" not in known:
            trial.set_constraint("accuracy", floor - accuracy)

    def _enqueue_named(self) -> None:
        there = {trial.user_attrs.get(NAMED) for trial in self.trials}
        for name in self.plan.named:
            if name not in there:
                self.study.enqueue_trial({}, user_attrs={NAMED: name, LABEL: name})

    def _check_objectives(self) -> None:
        plan, storage = self.plan, self.storage.optuna
        known = {summary.study_name: summary for summary in storage.get_all_studies()}
        if plan.name not in known:
            return
        study = optuna.load_study(study_name=plan.name, storage=storage)
        names = study.metric_names
        same = len(study.directions) == len(plan.objectives) and all(
            direction is OBJECTIVES[name].direction
            for direction, name in zip(study.directions, plan.objectives, strict=True)
        )
        if not same or names not in (None, list(plan.objectives)):
            there = names or [direction.name.lower() for direction in study.directions]
            raise UserError(
                f"hydra.sweeper.objectives=[{','.join(plan.objectives)}]: the study {plan.name!r} "
                f"in {self.storage.name} has [{','.join(there)}]; give another "
                "hydra.sweeper.study_name"
            )
