"""F1 of predicted classes, by its definition; equal to scikit-learn's with `zero_division=0`."""

import numpy as np


def f1_score(labels: np.ndarray, predicted: np.ndarray, binary: bool) -> float:
    """Return the F1 of class 1 where `binary`, else the plain mean over the classes that occur.

    A class occurs where it is a label or a prediction; one that is never right has an F1 of 0. With no
    row there is none, and it is 0.

    Args:
        labels: (n,), whole numbers.
        predicted: (n,), likewise.
    """
    if binary:
        return _f1(labels == 1, predicted == 1)
    classes = np.union1d(labels, predicted)
    each = [_f1(labels == index, predicted == index) for index in classes]
    return float(np.mean(each)) if each else 0.0


def _f1(actual: np.ndarray, claimed: np.ndarray) -> float:
    # 2 · right / (actual + claimed) is the harmonic mean of precision and recall.
    total = int(actual.sum()) + int(claimed.sum())
    return 2 * int((actual & claimed).sum()) / total if total else 0.0
