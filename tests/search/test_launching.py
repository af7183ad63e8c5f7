import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from optuna.trial import TrialState

from sparselora.errors import UserError
from sparselora.search.launching import Job, JobLauncher
from sparselora.search.progress import SearchProgress
from sparselora.search.study.attributes import ENDED, FOLDER, REASON
from sparselora.search.study.study import SharedStudy
from tests.search.study.studies import ask, opened, record

Work = Callable[[Job], BaseException | None]


class FakeLauncher(Launcher):
    """Does some work for each job, in place of Hydra's own."""

    def __init__(self, jobs: Sequence[Job], work: Work) -> None:
        self.jobs, self.work = jobs, work

    def setup(self, **_: Any) -> None:
        """Nothing is needed."""

    def launch(self, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx == self.jobs[0].number
        returns = []
        for job in self.jobs:
            error = self.work(job)
            one = JobReturn(status=JobStatus.FAILED if error else JobStatus.COMPLETED)
            one.return_value = error
            returns.append(one)
        return returns


@pytest.fixture
def study() -> SharedStudy:
    return opened(None, named=[])


def run(study: SharedStudy, folder: Path, work: Work, count: int = 2) -> list[Job]:
    jobs = []
    for _ in range(count):
        trial = ask(study)
        job = Job(trial.number, [], folder / str(trial.number))
        trial.set_user_attr(FOLDER, str(job.folder))
        jobs.append(job)
    JobLauncher(FakeLauncher(jobs, work), study, SearchProgress(study)).run(jobs)
    return jobs


def states(study: SharedStudy) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_every_job_is_reported_from_its_record(study: SharedStudy, tmp_path: Path) -> None:
    def work(job: Job) -> None:
        record(job.folder, ms_per_step=8.0 + job.number)

    run(study, tmp_path, work)
    assert [trial.values for trial in study.trials] == [[0.75, 8.0], [0.75, 9.0]]


def test_a_job_without_a_record_has_failed_for_what_it_raised(
    study: SharedStudy, tmp_path: Path
) -> None:
    run(study, tmp_path, lambda job: MemoryError("too much\nand more") if job.number else None)
    assert states(study) == ["FAIL", "FAIL"]
    reasons = [trial.user_attrs[REASON] for trial in study.trials]
    assert reasons == ["it left no record", "MemoryError: too much"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_nobodys_failure(study: SharedStudy, tmp_path: Path, code: int) -> None:
    def work(job: Job) -> BaseException | None:
        if job.number == 0:
            record(job.folder)
            return None
        return OSError(code, "No space left on device")

    with pytest.raises(UserError, match=r"hydra\.sweep\.dir=.*No space left.*make room"):
        run(study, tmp_path, work)
    assert states(study) == ["COMPLETE", "WAITING"]


def test_what_ends_a_worker_counts_against_what_had_begun(
    study: SharedStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(job: Job) -> None:
        record(job.folder, status="completed" if job.number == 0 else "running")
        if job.number == 1:
            raise RuntimeError("a worker was killed")

    run(study, tmp_path, work)
    assert states(study) == ["COMPLETE", "WAITING"]
    assert study.trials[1].user_attrs[ENDED] == 1
    assert "a worker was lost (RuntimeError: a worker was killed)" in capsys.readouterr().out


def test_a_launcher_that_begins_nothing_is_the_users_to_mend(
    study: SharedStudy, tmp_path: Path
) -> None:
    def work(_: Job) -> None:
        raise ValueError("no such queue")

    with pytest.raises(UserError, match=r"cannot launch \(ValueError: no such queue\)"):
        run(study, tmp_path, work)
    assert states(study) == ["WAITING"] * 2


def test_ctrl_c_releases_what_was_begun_without_blame(study: SharedStudy, tmp_path: Path) -> None:
    def work(job: Job) -> None:
        record(job.folder, status="running")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path, work)
    assert all(trial.state is TrialState.WAITING for trial in study.trials)
    assert [trial.user_attrs[ENDED] for trial in study.trials] == [0, 0]
