"""Run the loop of a search: ask, launch, tell, until the study has its trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna.trial import Trial, TrialState

from sparselora.config.identity import shapes_sparsity
from sparselora.config.naming import describe
from sparselora.config.schema import RunConfig
from sparselora.errors import TrainingError, UserError
from sparselora.machine.device import choose_device, use_threads
from sparselora.machine.provenance import device_name
from sparselora.runs.checks import check_shape, parse_job, user_keys
from sparselora.search import compat
from sparselora.search.follow_up import follow_up, verdict
from sparselora.search.launching import Job, JobLauncher
from sparselora.search.progress import SearchProgress
from sparselora.search.space.effective import key_of, remembered
from sparselora.search.space.samplers import sampler_factory
from sparselora.search.space.space import Space
from sparselora.search.study import attributes
from sparselora.search.study.held import check_study
from sparselora.search.study.known import fingerprint
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.recovery import recover, release
from sparselora.search.study.references import hand_out
from sparselora.search.study.storage import Storage
from sparselora.search.study.study import SharedStudy

FIRST_LOOK_AT_FAILURES = 4
"""Finished trials."""
SHOWN_OF_A_DUPLICATE = (
    "accuracy",
    "ms_per_step",
    "speedup",
    "speedup_low",
    "speedup_high",
    "mean_sparsity",
    "seeds",
)


class Search:
    """Do one process's part of a search.

    Args:
        settings: the fields of `SearchConfig`.
        hydra_context: Hydra's, as its sweepers get them.
        task_function: likewise.
        config: likewise.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.settings, self.config = settings, config
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.folder = Path(config.hydra.sweep.dir).resolve()
        self.local = any(
            name in config.hydra.launcher._target_
            for name in (compat.BASIC_LAUNCHER, compat.JOBLIB_LAUNCHER)
        )
        self.duplicates_in_a_row = 0
        self._check = remembered(self._compose_and_check)

    def run(self, arguments: Sequence[str]) -> None:
        """Search until the study has its trials.

        Args:
            arguments: the command's overrides, Hydra's own left out.

        Raises:
            UserError: the storage, the study or the settings of it do not allow the search.
            TrainingError: more trials fail than may.
            KeyboardInterrupt: what was begun is released first.
        """
        settings = self.settings
        self.space = Space.parse(settings["params"] or {}, arguments)
        base, _ = self._check(
            [item for item in self.space.fixed if not shapes_sparsity(key_of(item))]
        )
        self.device = choose_device(base.train.device)
        use_threads(base.train.threads)
        storage, plan = Storage(settings["storage"]), self._plan()
        device = f"{device_name(self.device)}, {torch.get_num_threads()} threads"
        self.study = SharedStudy(
            storage,
            plan,
            lambda study: check_study(
                study, self.space, base, settings, device if self.local else None
            ),
        )
        with storage.locked():
            recover(self.study)
        self.progress = SearchProgress(self.study)
        self.progress.begin()
        self.jobs = JobLauncher(self.launcher, self.study, self.progress)
        self._until_spent()
        while settings["follow_up"] and self._follows_up():
            self._until_spent()
        self.progress.end(verdict(self.study) if settings["follow_up"] else [])

    def _follows_up(self) -> bool:
        with self.study.storage.locked():
            names = follow_up(self.study)
            if names:
                self.study.extend(names)
        return bool(names)

    def _until_spent(self) -> None:
        while jobs := self._next_jobs(self.settings["n_jobs"]):
            self.jobs.run(jobs)
            self._stop_on_failures()

    def _next_jobs(self, count: int) -> list[Job]:
        jobs: list[Job] = []
        alone = False
        with self.study.storage.locked():
            while len(jobs) < count and not alone and (trial := self._ask()) is not None:
                # What may have taken its worker along runs without company.
                alone = trial.user_attrs.get(attributes.ENDED, 0) > 0
                try:
                    job = self._drawn(trial)
                except UserError as error:  # a bad combination is the setting's fault
                    self.study.tell(trial.number, Outcome.failed(str(error)))
                    self.progress.reported(self.study.trials[trial.number])
                    self._stop_on_failures()
                    continue
                except BaseException:  # Ctrl-C between two draws
                    for number in (trial.number, *(one.number for one in jobs)):
                        release(self.study, number)
                    raise
                if job is not None:
                    jobs.append(job)
                elif self.duplicates_in_a_row >= self.settings["max_duplicates"]:
                    self.progress.exhausted(self.duplicates_in_a_row)
                    break
            hand_out(self.study.study, self.folder, self._front())
        return jobs

    def _ask(self) -> Trial | None:
        recover(self.study)
        return self.study.ask()

    def _drawn(self, trial: Trial) -> Job | None:
        """Return the trial's job; None where another trial has answered it."""
        name = trial.user_attrs.get(attributes.NAMED)
        if name is None:
            overrides = self.space.draw(trial, self._check, self.study.reseed)
        else:
            overrides = self.space.named(name, self._check)
        run, sparsities = self._check(overrides)
        folder = self._job_folder(trial.number)
        label = describe(run, sparsities, name, user_keys(overrides))
        identity = None  # where jobs run elsewhere, on what is not known before they have
        if self.local:
            identity = fingerprint(run, device_name(self.device), torch.get_num_threads())
        stamps: dict[str, Any] = {attributes.LABEL: label, attributes.OVERRIDES: overrides}
        stamps |= {attributes.FOLDER: str(folder), attributes.FINGERPRINT: identity}
        for key, value in stamps.items():
            trial.set_user_attr(key, value)
        if name is None and self._answered(trial, identity):
            self.duplicates_in_a_row += 1
            return None
        if trial.user_attrs.get(attributes.DUPLICATE_OF) is not None:  # when it was begun before
            trial.set_user_attr(attributes.DUPLICATE_OF, None)
        self.duplicates_in_a_row = 0
        self.progress.begins(trial.number, label)
        return Job(trial.number, [*overrides, f"hydra.sweep.subdir={folder.name}"], folder)

    def _job_folder(self, number: int) -> Path:
        """Return a folder that nobody wrote to: a trial may have been begun before, in another."""
        names = [str(number), *(f"{number}-{again}" for again in range(1, 1000))]
        return next(self.folder / name for name in names if not (self.folder / name).exists())

    def _front(self) -> list[tuple[float, float]]:
        if list(self.study.plan.objectives) != ["accuracy", "ms_per_step"]:
            return []
        return [(trial.values[0], trial.values[1]) for trial in self.study.front()]

    def _answered(self, trial: Trial, identity: str | None) -> bool:
        for other in self.study.trials:
            known = (
                identity is not None and other.user_attrs.get(attributes.FINGERPRINT) == identity
            )
            if known and other.state is TrialState.COMPLETE:
                trial.set_user_attr(attributes.DUPLICATE_OF, other.number)
                shown = {
                    name: value
                    for name, value in other.user_attrs.items()
                    if name in SHOWN_OF_A_DUPLICATE
                }
                self.study.tell(trial.number, Outcome(list(other.values), None, shown))
                return True
        return False

    def _stop_on_failures(self) -> None:
        counted, failed = self.study.counted(), self.study.failed()
        allowed = self.settings["max_failure_rate"]
        if len(counted) < FIRST_LOOK_AT_FAILURES or len(failed) <= allowed * len(counted):
            return
        reasons = [trial.user_attrs.get(attributes.REASON, "") for trial in failed]
        raise TrainingError(
            f"{len(failed)} of {len(counted)} trials failed, and hydra.sweeper.max_failure_rate="
            f"{allowed:g} may; the last: {reasons[-1]}"
        )

    def _compose_and_check(self, overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
        config = self.loader.load_sweep_config(self.config, list(overrides))
        run = parse_job(config, overrides)
        return run, check_shape(run, user_keys(overrides))

    def _plan(self) -> Plan:
        settings = self.settings
        make_sampler, size = sampler_factory(settings["sampler"], self.space, settings["seed"])
        size = size if self.space.distributions else 0
        named = list(settings["named"])
        return Plan(
            name=settings["study_name"],
            objectives=list(settings["objectives"]),
            n_trials=min(settings["n_trials"], len(named) + size),
            named=named,
            seed=settings["seed"],
            make_sampler=make_sampler,
            min_accuracy=settings["min_accuracy"],
            max_drop=settings["max_drop"],
            max_interruptions=settings["max_interruptions"],
            release_hosts=list(settings["release_hosts"]),
        )
