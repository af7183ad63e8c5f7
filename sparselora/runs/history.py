"""Hold what a training has reached so far: its steps, its evaluations, and the best of them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from sparselora.records.sections import Scores
from sparselora.records.typed import build
from sparselora.training.loop import StepRow


@dataclass
class History:
    """Hold the rows and evaluations of one training."""

    rows: list[StepRow] = field(default_factory=list)
    evaluations: list[Scores] = field(default_factory=list)
    best: Scores | None = None
    """The evaluation with the highest accuracy, the first of equals."""
    best_state: dict[str, Tensor] = field(default_factory=dict)
    """What trains, as it was then."""

    @property
    def latest(self) -> Scores | None:
        """Return the newest evaluation; None before the first."""
        return self.evaluations[-1] if self.evaluations else None

    def add(self, scores: Scores, state: Callable[[], dict[str, Tensor]]) -> bool:
        """Add an evaluation; return whether it is the best so far.

        Args:
            scores: of the evaluation.
            state: gives what trains, as it is now; called only if this is the best.
        """
        self.evaluations.append(scores)
        if self.best is not None and scores.accuracy <= self.best.accuracy:
            return False
        self.best, self.best_state = scores, state()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which `load_state_dict` takes."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "evaluations": [scores.to_dict() for scores in self.evaluations],
            "best": None if self.best is None else self.best.to_dict(),
            "best_state": self.best_state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.rows = [StepRow(**row) for row in state["rows"]]
        self.evaluations = [build(Scores, scores) for scores in state["evaluations"]]
        self.best = None if state["best"] is None else build(Scores, state["best"])
        self.best_state = state["best_state"]
