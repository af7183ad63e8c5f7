"""Show bars on standard error: steps of training, rounds of timing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

    from sparselora.records.sections import Scores
    from sparselora.training.loop import StepPlan, StepRow


class Progress:
    """Show one bar at a time, which is closed when the block ends.

    Args:
        label: stands before the bar.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._bar: tqdm[Any] | None = None
        self._unit = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def on_step(self, row: "StepRow", plan: "StepPlan", latest: "Scores | None") -> None:
        """Show a step of training: its phase, loss and time, and the newest accuracy."""
        shown = f"{row.phase}, loss {row.loss:.3f}, {row.milliseconds:.0f} ms/step"
        if latest is not None:
            shown += f", accuracy {latest.accuracy:.3f} at {latest.step}"
        self._update("step", plan.total_steps, shown)

    def on_round(self, done: int) -> None:
        """Show a round of timing; how many there will be shows as they come."""
        self._update("round", None, "timing against stock PEFT LoRA")

    def _update(self, unit: str, total: int | None, shown: str) -> None:
        from tqdm import tqdm

        if self._bar is None or self._unit != unit:
            self._close()
            self._bar, self._unit = tqdm(total=total, desc=self.label, unit=unit), unit
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
