"""Dense evaluation of one split: what the model says of each row, and the metrics that gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sparselora.data.batches import TokenizedSplit, evaluation_batches
from sparselora.data.splits import Split
from sparselora.machine.lock import DeviceLock
from sparselora.model.f1 import f1_score


class Evaluation(Protocol):
    """What a model made of one split, in the order of its rows."""

    def metrics(self) -> dict[str, float]:
        """`accuracy`, `loss`, and what else the task has."""
        ...

    def predictions(self, split: Split, split_name: str, step: int) -> pd.DataFrame:
        """A row an example: what paired statistics need."""
        ...


class Reader(Protocol):
    """Collects what a model says over the batches of one split."""

    def read(self, model: nn.Module, indices: list[int], batch: dict[str, Tensor]) -> None:
        """One batch of rows `indices`, on the model's device."""
        ...

    def result(self, split: TokenizedSplit) -> Evaluation:
        """Of all rows, in order."""
        ...


@dataclass(frozen=True)
class Classified:
    """Logits of one split, (n, classes), float32, in the order of its rows, and its labels, (n,)."""

    logits: np.ndarray
    labels: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Accuracy, F1 (of class 1 where there are two, else the mean over classes), loss (nats)."""
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
        """A row an example, with its logits."""
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
    """Reads a classifier's logits."""

    rows: list[Tensor] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    def read(self, model: nn.Module, indices: list[int], batch: dict[str, Tensor]) -> None:
        """One batch of rows `indices`, on the model's device."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        self.rows.append(model(**inputs).logits.float())
        self.order.extend(indices)

    def result(self, split: TokenizedSplit) -> Classified:
        """Of all rows, in order."""
        logits = torch.empty(len(split), self.rows[0].shape[1])
        logits[torch.tensor(self.order)] = torch.cat(self.rows).cpu()
        return Classified(logits.numpy(), np.asarray(split.labels, dtype=np.int64))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    reader: Reader,
    tokenizer: Any,
    split: TokenizedSplit,
    batch_size: int,
    context: Callable[[], Any],
    device: torch.device,
    lock: DeviceLock,
) -> Evaluation:
    """Evaluate every row of `split` once, without sparsity; the model's mode is as before afterwards.

    Args:
        model: on `device`.
        reader: a new one, of the task.
        tokenizer: that pads the batches.
        split: to evaluate.
        batch_size: examples of a forward pass.
        context: makes the context that a forward pass runs in, such as autocast.
        device: of the model.
        lock: of the device, held shared for each batch.
    """
    was_training = model.training
    model.eval()
    try:
        for indices, batch in evaluation_batches(tokenizer, split, batch_size):
            with lock.shared(), context():
                reader.read(
                    model, indices, {name: tensor.to(device) for name, tensor in batch.items()}
                )
    finally:
        model.train(was_training)
    return reader.result(split)
