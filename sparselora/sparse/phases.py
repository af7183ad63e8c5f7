"""Decide which steps of a run are dense, and how far sparsity has risen in the others: pure, no torch."""

import math
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Phases:
    """Hold which steps of a run are dense, and how far sparsity has risen in the others.

    Steps count from 1. The first `dense_start` are dense, then `ramp` steps rise evenly to the full
    sparsity, and the last `dense_finish` are dense again.
    """

    total_steps: int
    dense_start: int = 0
    ramp: int = 0
    dense_finish: int = 0

    @classmethod
    def of_ratios(
        cls, total_steps: int, warmup: float, rampup: float = 0.0, cooldown: float = 0.0
    ) -> Self:
        """Return phases from shares of the steps, each rounded: floor(share · steps + 0.5)."""
        start, ramp, finish = (
            math.floor(share * total_steps + 0.5) for share in (warmup, rampup, cooldown)
        )
        return cls(total_steps, start, ramp, finish)

    @classmethod
    def all_dense(cls, total_steps: int) -> Self:
        """Return the phases of plain LoRA."""
        return cls(total_steps, dense_start=total_steps)

    def share(self, step: int) -> float:
        """Return 0 in a dense step, 1 at the full sparsity, between the two while it rises."""
        into = step - self.dense_start
        if into <= 0 or step > self.total_steps - self.dense_finish:
            return 0.0
        return min(into / (self.ramp + 1), 1.0)

    @property
    def sparse_steps(self) -> int:
        """Return how many steps are not dense; 0 where the dense ones leave none."""
        return max(self.total_steps - self.dense_start - self.dense_finish, 0)

    def shares(self, last: int | None = None) -> float:
        """Return the sum of `share` up to step `last`, or over all: sparse steps, by how sparse."""
        last = self.total_steps if last is None else last
        return sum(self.share(step) for step in range(1, last + 1))
