"""F1 against figures worked out by hand, and against precision and recall in exact fractions."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.data.batches import TokenizedSplit
from sparselora.data.splits import Split
from sparselora.model.classification import Classified, ClassReader, f1_score


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


def test_logits_read_in_any_order_stand_in_that_of_the_rows() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])

    class Model(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=logits[rows])

    reader = ClassReader()
    for rows in ([2, 0], [1]):
        batch = {"rows": torch.tensor(rows), "labels": torch.tensor(rows)}
        reader.read(Model(), rows, batch)
    result = reader.result(TokenizedSplit([{}, {}, {}], [0, 1, 1]))
    assert result.logits.tolist() == logits.tolist()
    assert result.labels.tolist() == [0, 1, 1]


def test_metrics_are_of_the_likeliest_class() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], dtype=np.float32)
    metrics = Classified(logits, np.array([0, 1, 1])).metrics()
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["f1"] == pytest.approx(2 / 3)
    loss = np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(3.0))])
    assert metrics["loss"] == pytest.approx(loss)


def test_predictions_hold_a_row_an_example() -> None:
    split = Split(["a:0", "a:1"], ["x", "y"], None, [0, 1], ["g", "h"])
    found = Classified(np.eye(2, dtype=np.float32), np.array([0, 1])).predictions(split, "test", 3)
    assert found["example_id"].tolist() == ["a:0", "a:1"]
    assert found["logits"].map(list).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert set(found["split"]) == {"test"}
    assert set(found["step"]) == {3}
