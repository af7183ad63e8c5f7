"""Find the front of a study by the floor asked for now; Optuna's constraints stay as they were set."""

from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial


def pareto_front(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], floor: float | None
) -> list[FrozenTrial]:
    """Return the trials that no other matches in all objectives and beats in one.

    Args:
        trials: with values, and `accuracy` in [0, 1] among their user attributes.
        directions: of the objectives.
        floor: trials of less accuracy are left out; None keeps all.
    """
    able = [
        trial
        for trial in trials
        if floor is None or trial.user_attrs.get("accuracy", floor) >= floor
    ]
    signs = [-1 if one is StudyDirection.MAXIMIZE else 1 for one in directions]
    costs = [
        tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        for trial in able
    ]
    return [
        trial
        for trial, cost in zip(able, costs, strict=True)
        if not any(
            other != cost and all(x <= y for x, y in zip(other, cost, strict=True))
            for other in costs
        )
    ]
