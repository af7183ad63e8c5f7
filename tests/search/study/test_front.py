import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from sparselora.search.study.front import pareto_front
from tests.search.study.studies import ask, opened, tell

UP, DOWN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def test_the_front_keeps_to_the_floor_whenever_it_was_known(url: str) -> None:
    study = opened(url, named=["original", "dense"], max_drop=1.0)
    for accuracy, ms in ((0.70, 5.0), (0.80, 9.0), (0.795, 7.0), (0.795, 8.0)):
        tell(study, ask(study).number, accuracy, ms)
    assert [trial.number for trial in study.front()] == [1, 2]


def finished(accuracy: float, ms: float) -> FrozenTrial:
    attributes = {"accuracy": accuracy}
    return optuna.trial.create_trial(values=[accuracy, ms], user_attrs=attributes)


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=8)


@given(POINTS, st.none() | st.integers(0, 4))
def test_none_is_on_the_front_that_another_beats(
    points: list[tuple[int, int]], floor: int | None
) -> None:
    trials = [finished(*point) for point in points]
    front = pareto_front(trials, [UP, DOWN], floor)
    able = [point for point in points if floor is None or point[0] >= floor]
    expected = [
        (accuracy, ms)
        for accuracy, ms in able
        if not any(a >= accuracy and m <= ms and (a, m) != (accuracy, ms) for a, m in able)
    ]
    assert [tuple(trial.values) for trial in front] == expected


def test_a_direction_turns_the_front() -> None:
    trials = [finished(0.7, 5.0), finished(0.8, 9.0)]
    assert pareto_front(trials, [UP, UP], None) == trials[1:]
    assert pareto_front(trials, [DOWN, DOWN], None) == trials[:1]
    assert pareto_front(trials, [UP, DOWN], None) == trials
