"""Run jobs by Hydra's launcher, and report each to the study, or let it be begun again."""

import errno
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.plugins.launcher import Launcher

from sparselora.errors import UserError
from sparselora.records.record import RECORD_NAME
from sparselora.search import compat
from sparselora.search.progress import SearchProgress
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.recovery import put_back, release
from sparselora.search.study.study import SharedStudy

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """Describe a trial that is to be launched."""

    number: int
    overrides: list[str]
    folder: Path


class JobLauncher:
    """Run jobs, and see to it that none of them is lost, whatever ends them.

    Args:
        launcher: Hydra's.
        study: that the jobs' trials are of.
        progress: shows what comes out.
    """

    def __init__(self, launcher: Launcher, study: SharedStudy, progress: SearchProgress) -> None:
        self.launcher, self.study, self.progress = launcher, study, progress

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs at once, and report their outcomes to the study.

        Raises:
            UserError: they cannot be launched, or the disk is full.
            KeyboardInterrupt: what was begun is released first.
        """
        errors = self._launch(jobs)
        if not errors:
            return
        full = [error for error in errors if _is_full_disk(error)]
        with self.study.storage.locked():
            for job, error in zip(jobs, errors, strict=True):
                if _is_full_disk(error):
                    put_back(self.study, job.number)
                    continue
                outcome = self.study.outcome(job.folder)
                if outcome is None:
                    outcome = Outcome.failed(_reason(error))
                self.progress.reported(self.study.tell(job.number, outcome))
        # The exception of a failed run holds its tensors.
        del errors
        gc.collect()
        if full:
            raise UserError(
                f"hydra.sweep.dir={jobs[0].folder.parent}: {full[0]}; make room: the same command "
                "goes on"
            )

    def _launch(self, jobs: Sequence[Job]) -> list[BaseException | None]:
        """Return what each job raised, or nothing at all where none is to be reported."""
        try:
            returns = self.launcher.launch(
                [job.overrides for job in jobs], initial_job_idx=jobs[0].number
            )
        except BaseException as error:
            # Whatever came to an end is reported, the rest is begun again: in this command's next turn
            # where a worker was ended by the system, in the next command after Ctrl-C.
            begun = any(list(job.folder.rglob(RECORD_NAME)) for job in jobs)
            ended = begun and isinstance(error, Exception)
            with self.study.storage.locked():
                for job in jobs:
                    release(self.study, job.number, counts=ended)
            if ended:
                self.progress.ended(_reason(error))
                return []
            if isinstance(error, Exception):
                raise UserError(f"hydra/launcher: cannot launch ({_reason(error)})") from error
            raise
        return [compat.raised_by(one) for one in returns]


def _is_full_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL_DISK


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "it left no record"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
