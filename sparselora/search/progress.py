"""Show a search on the terminal: which trial of how many, time left, the front so far."""

import time
from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.search.study.attributes import DUPLICATE_OF, ENDED, LABEL, PROCESS, REASON
from sparselora.search.study.outcome import OBJECTIVES
from sparselora.search.study.study import SharedStudy

FORMATS = {"accuracy": "{:.4f}", "ms_per_step": "{:.1f}", "gflops_per_step": "{:.1f}"}


class SearchProgress:
    """Print what happens in one process's part of a search.

    Args:
        study: as this process sees it.
        console: where to print; standard output if none is given.
    """

    def __init__(self, study: SharedStudy, console: Console | None = None) -> None:
        self.study, self.console = study, console or Console()
        self._began = time.monotonic()
        self._at_begin = len(study.counted())

    def begin(self) -> None:
        """Print where the study stands."""
        plan, done = self.study.plan, self._at_begin
        others = len(self.study.running())
        again = sum(trial.user_attrs.get(ENDED, 0) for trial in self.study.trials)
        line = (
            f"study {plan.name} in {self.study.storage.name}: {done} of {plan.n_trials} trials done"
        )
        line += f", {others} running elsewhere" if others else ""
        line += f", {again} begun again after their process had ended" if again else ""
        if done >= plan.n_trials:
            line += "; raise hydra.sweeper.n_trials to go on"
        self._say(line)

    def begins(self, number: int, label: str) -> None:
        """Print that a trial is about to run."""
        plan, done = self.study.plan, len(self.study.counted())
        here = done - self._at_begin
        left = ""
        if here:
            seconds = (time.monotonic() - self._began) / here * (plan.n_trials - done)
            left = f", about {_duration(seconds)} left"
        self._say(f"trial {number}, {done + 1} of {plan.n_trials}{left}: {label}")

    def reported(self, trial: FrozenTrial) -> None:
        """Print the values of a trial that is finished, and the front where it changed that."""
        label = trial.user_attrs.get(LABEL, f"trial {trial.number}")
        if trial.values is None:
            self._say(f"failed: {label}: {trial.user_attrs.get(REASON)}")
            return
        objectives = self.study.plan.objectives
        shown = [
            f"{name} {_shown(name, value)}"
            for name, value in zip(objectives, trial.values, strict=True)
        ]
        shown_with = trial.user_attrs
        if "speedup" not in objectives and "speedup" in shown_with:
            interval = ""
            if "speedup_low" in shown_with:
                interval = f" ({shown_with['speedup_low']:.2f} to {shown_with['speedup_high']:.2f})"
            shown.append(f"{shown_with['speedup']:.2f} × stock{interval}")
        if "seeds" in shown_with:
            shown.append(f"mean of {len(shown_with['seeds'])} seeds")
        if "stopped" in shown_with:
            shown.append(f"stopped: {shown_with['stopped']}")
        self._say(f"    {', '.join(shown)}")
        front = self.study.front()
        if any(one.number == trial.number for one in front):
            self._print_front(front)

    def ended(self, reason: str) -> None:
        """Print that a worker was ended by the system, and its launcher with it."""
        self._say(f"a worker was lost ({reason}); its trials are begun again, one by one")

    def exhausted(self, in_a_row: int) -> None:
        """Print that the search ends before its budget."""
        self._say(
            f"{in_a_row} draws in a row were settings that the study knows: the space holds no more; "
            "raise hydra.sweeper.max_duplicates, or widen hydra.sweeper.params in another study"
        )

    def end(self, verdict: Sequence[str] = ()) -> None:
        """Print the front, what to type next, and the lines of a verdict."""
        front = self.study.front()
        if front:
            self._print_front(front)
        counted, failed = len(self.study.counted()), len(self.study.failed())
        known = sum(trial.user_attrs.get(DUPLICATE_OF) is not None for trial in self.study.trials)
        self._say(
            f"{counted} trials, {failed} of them failed, {known} more answered from these; "
            f"watch: optuna-dashboard {self.study.storage.name}"
        )
        for trial in self.study.running():
            host = (trial.user_attrs.get(PROCESS) or {}).get("host")
            self._say(
                f"trial {trial.number} still runs on {host}; if that will not come back, add "
                f"hydra.sweeper.release_hosts=[{host}]"
            )
        for line in verdict:
            self._say(line)

    def _print_front(self, front: list[FrozenTrial]) -> None:
        objectives = list(self.study.plan.objectives)
        table = Table(title="Pareto front so far", title_justify="left")
        table.add_column("trial", justify="right")
        table.add_column("setting")
        for name in objectives:
            arrow = "↑" if OBJECTIVES[name].direction is StudyDirection.MAXIMIZE else "↓"
            table.add_column(f"{name} {arrow}", justify="right")
        if "speedup" not in objectives:
            table.add_column("× stock", justify="right")
        table.add_column("seeds", justify="right")
        for trial in sorted(front, key=lambda one: one.values[-1]):
            cells = [
                _shown(name, value) for name, value in zip(objectives, trial.values, strict=True)
            ]
            if "speedup" not in objectives:
                speedup = trial.user_attrs.get("speedup")
                cells.append("" if speedup is None else f"{speedup:.2f}")
            cells.append(str(len(trial.user_attrs.get("seeds", [None]))))
            table.add_row(str(trial.number), escape(str(trial.user_attrs.get(LABEL, ""))), *cells)
        self.console.print(table)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _shown(name: str, value: float) -> str:
    return FORMATS.get(name, "{:.3f}").format(value)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"
