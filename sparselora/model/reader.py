"""Describe what reads a model's outputs over a split, and what comes of it: a task has one of each."""

from typing import Protocol

import pandas as pd
from torch import Tensor, nn

from sparselora.data.batches import TokenizedSplit
from sparselora.data.splits import Split


class Evaluation(Protocol):
    """Hold what a model made of one split, in the order of its rows."""

    def metrics(self) -> dict[str, float]:
        """Return `accuracy`, `loss`, and what else the task has."""
        ...

    def predictions(self, split: Split, split_name: str, step: int) -> pd.DataFrame:
        """Return a row an example: what paired statistics need."""
        ...


class Reader(Protocol):
    """Collect what a model says over the batches of one split."""

    def read(self, model: nn.Module, indices: list[int], batch: dict[str, Tensor]) -> None:
        """Read one batch, of rows `indices`, on the model's device."""
        ...

    def result(self, split: TokenizedSplit) -> Evaluation:
        """Return what was read of all rows, in order."""
        ...
