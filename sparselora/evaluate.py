"""Dense evaluation of one split: logits, and the metrics they give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score
from torch import nn

from sparselora.batches import TokenizedSplit, evaluation_batches
from sparselora.data import Split
from sparselora.lock import DeviceLock


@dataclass(frozen=True)
class Evaluation:
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
            "f1": float(
                f1_score(
                    self.labels, predicted, average="binary" if binary else "macro", zero_division=0
                )
            ),
            "loss": float(loss),
        }

    def predictions(self, split: Split, split_name: str, step: int) -> pd.DataFrame:
        """A row an example: what paired statistics need."""
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


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokenizer: Any,
    split: TokenizedSplit,
    batch_size: int,
    context: Callable[[], Any],
    device: torch.device,
    lock: DeviceLock,
) -> Evaluation:
    """Every row of `split` once, without sparsity; the model's mode is as before afterwards.

    Args:
        context: makes the context that a forward pass runs in, such as autocast.
        lock: held shared for each batch.
    """
    was_training = model.training
    model.eval()
    rows: list[torch.Tensor] = []
    order: list[int] = []
    try:
        for indices, batch in evaluation_batches(tokenizer, split, batch_size):
            batch.pop("labels")
            with lock.shared(), context():
                output = model(**{name: tensor.to(device) for name, tensor in batch.items()})
            rows.append(output.logits.float())
            order.extend(indices)
    finally:
        model.train(was_training)
    logits = torch.empty(len(split), rows[0].shape[1])
    logits[torch.tensor(order)] = torch.cat(rows).cpu()
    return Evaluation(logits.numpy(), np.asarray(split.labels, dtype=np.int64))
