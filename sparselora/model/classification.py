"""Evaluate a classifier: read its logits, and tell accuracy, F1 and loss."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sparselora.data.batches import TokenizedSplit
from sparselora.data.splits import Split


@dataclass(frozen=True)
class Classified:
    """Hold the logits of one split and its labels, in the order of its rows.

    Attributes:
        logits: (n, classes), float32.
        labels: (n,).
    """

    logits: np.ndarray
    labels: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Return accuracy, F1 (of class 1 of two, else the mean over classes) and loss (nats)."""
        predicted = self.logits.argmax(axis=1)
        binary = self.logits.shape[1] == 2
        loss = nn.functional.cross_entropy(
            torch.from_numpy(self.logits), torch.from_numpy(self.labels)
        )
        return {
            "accuracy": float((predicted == self.labels).mean()),
            "f1": f1_score(self.labels, predicted, binary),
            "loss": float(loss),
        }

    def predictions(self, split: Split, split_name: str, step: int) -> pd.DataFrame:
        """Return a row an example, with its logits."""
        return pd.DataFrame(
            {
                "split": split_name,
                "step": step,
                "example_id": split.example_ids,
                "group": split.groups,
                "label": self.labels,
                "logits": list(self.logits),
            }
        )


@dataclass
class ClassReader:
    """Read a classifier's logits, batch by batch."""

    rows: list[Tensor] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def read(self, model: nn.Module, indices: list[int], batch: dict[str, Tensor]) -> None:
        """Read one batch, of rows `indices`, on the model's device."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        self.rows.append(model(**inputs).logits.float())
        self.order.extend(indices)

    def result(self, split: TokenizedSplit) -> Classified:
        """Return the logits of all rows, in order."""
        logits = torch.empty(len(split), self.rows[0].shape[1])
        logits[torch.tensor(self.order)] = torch.cat(self.rows).cpu()
        return Classified(logits.numpy(), np.asarray(split.labels, dtype=np.int64))


def f1_score(labels: np.ndarray, predicted: np.ndarray, binary: bool) -> float:
    """Return the F1 of class 1 where `binary`, else the plain mean over the classes that occur.

    It is equal to scikit-learn's with `zero_division=0`.

    A class occurs where it is a label or a prediction; one that is never right has an F1 of 0. With no
    row there is none, and it is 0.

    Args:
        labels: (n,), whole numbers.
        predicted: (n,), likewise.
        binary: whether there are two classes, of which 1 is the one to find.
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
