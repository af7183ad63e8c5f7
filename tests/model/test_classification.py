"""F1 against figures worked out by hand, and against precision and recall in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora.model.classification import f1_score


@pytest.mark.parametrize(
    ("labels", "predicted", "binary", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], True, 1 / 2),
        ([1, 1, 1, 0], [1, 1, 0, 0], True, 4 / 5),
        ([0, 0], [0, 0], True, 0.0),  # class 1 never occurs
        ([1, 1], [0, 0], True, 0.0),
        ([0, 1, 2], [0, 1, 2], False, 1.0),
        ([0, 1, 2], [0, 2, 1], False, 1 / 3),
        (
            [0, 0, 1, 1],
            [0, 0, 1, 3],
            False,
            (1 + 2 / 3 + 0) / 3,
        ),  # 3 is predicted alone, 2 is not there
        ([5, 5, 5], [5, 5, 5], False, 1.0),
        ([], [], False, 0.0),
    ],
)
def test_by_hand(labels: list[int], predicted: list[int], binary: bool, expected: float) -> None:
    found = f1_score(np.array(labels, dtype=int), np.array(predicted, dtype=int), binary)
    assert found == pytest.approx(expected, abs=1e-12)


def _class_f1(rows: list[tuple[int, int]], one: int) -> Fraction:
    right = sum(actual == claimed == one for actual, claimed in rows)
    claimed = sum(claimed == one for _, claimed in rows)
    actual = sum(actual == one for actual, _ in rows)
    precision = Fraction(right, claimed) if claimed else Fraction(0)
    recall = Fraction(right, actual) if actual else Fraction(0)
    total = precision + recall
    return 2 * precision * recall / total if total else Fraction(0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_from_precision_and_recall(rows: list[tuple[int, int]]) -> None:
    labels, predicted = (np.array(column) for column in zip(*rows, strict=True))
    classes = {number for row in rows for number in row}
    mean = sum(_class_f1(rows, one) for one in classes) / len(classes)
    assert f1_score(labels, predicted, binary=False) == pytest.approx(float(mean))
    two = [(min(actual, 1), min(claimed, 1)) for actual, claimed in rows]
    labels, predicted = (np.array(column) for column in zip(*two, strict=True))
    assert f1_score(labels, predicted, binary=True) == pytest.approx(float(_class_f1(two, 1)))
