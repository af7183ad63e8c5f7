from collections.abc import Callable, Sequence
from typing import Any

import pytest
from omegaconf import OmegaConf

from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.search.check import check_search
from tests.conftest import Outcome
from tests.search.space.checks import check


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ["hydra.sweeper.objectives=[accuracy,ms_per_step]"],
            "measure.timing=none: the search's obj",
        ),
        (
            ["hydra.sweeper.objectives=[speed]"],
            "hydra.sweeper.objectives: 'speed': some of accuracy",
        ),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: a finite number of at least 1"),
        (["hydra.sweeper.n_jobs=2"], "hydra.sweeper.n_jobs=2: without effect"),
        (["hydra/launcher=parallel"], "hydra/launcher=parallel: without effect with"),
        (["hydra.sweeper.named=[nope]"], "experiment=nope: unknown; must be one of best, dense,"),
        (["hydra.sweeper.seeds=3"], "hydra.sweeper.seeds: unknown key"),
        (["hydra/sweeper/sampler=nope"], "hydra/sweeper/sampler=nope: unknown; must be one of"),
        (["hydra.sweeper.sampler.seed=3"], "hydra.sweeper.sampler.seed=3: without effect"),
        (["hydra/sweeper/sampler=gp"], "hydra/sweeper/sampler=gp: it models just"),
        (["compensation.rank=2,4", "compensation=none"], "compensation.rank=2: without effect"),
        (["ffn_sparsity=0.5,1.5"], "ffn_sparsity=1.5: a sparsity"),
        (["svd_rank=4,999"], "svd_rank=999: this model's lin1"),
        (["no_such_key=1,2"], "no_such_key: unknown"),
        (["hydra.sweeper.storage=oracle://x"], "hydra.sweeper.storage=oracle://x: "),
        (["hydra.sweeper.max_drop=1", "hydra.sweeper.named=[]"], "hydra.sweeper.max_drop=1"),
    ],
)
def test_a_bad_search_is_one_line_and_trains_nothing(
    invoke: Callable[..., Outcome], searching: list[str], extra: list[str], message: str
) -> None:
    own = {item.split("=")[0] for item in extra}
    outcome = invoke(*(item for item in searching if item.split("=")[0] not in own), *extra)
    assert outcome.code == 2, outcome.err
    assert f"error: {message}" in "\n".join(outcome.message)
    assert outcome.records() == []


BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
SETTINGS: dict[str, Any] = {
    "study_name": "s",
    "n_trials": 2,
    "n_jobs": 1,
    "max_duplicates": 1,
    "max_drop": None,
    "max_interruptions": 0,
    "min_accuracy": None,
    "max_failure_rate": 0.5,
    "follow_up": False,
    "named": ["dense"],
    "params": {"ffn_sparsity": "0.5,0.7"},
    "objectives": ["accuracy", "gflops_per_step"],
    "sampler": {"_target_": "optuna.samplers.RandomSampler"},
}


def checked(launcher: str = BASIC, **changes: Any) -> list[list[str]]:
    return check_search(OmegaConf.create(SETTINGS | changes), launcher, ["schedule=uniform"], check)


def test_a_search_that_is_right_gives_settings_to_check_the_model_of() -> None:
    settings = checked()
    assert ["experiment=dense"] in settings
    assert any("ffn_sparsity=0.5" in setting for setting in settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study_name": ""}, r"study_name: a name is needed"),
        ({"n_trials": 0}, r"n_trials=0"),
        ({"max_duplicates": 0}, r"max_duplicates=0"),
        ({"max_interruptions": -1}, r"max_interruptions=-1"),
        ({"min_accuracy": 1.5}, r"min_accuracy=1\.5: from 0 to 1"),
        ({"max_failure_rate": -0.1}, r"max_failure_rate=-0\.1: from 0 to 1"),
        ({"n_jobs": 2}, r"n_jobs=2: without effect"),
        ({"follow_up": True}, r"follow_up=true: needs dense and optimized"),
        ({"max_drop": 1.0, "named": []}, r"max_drop=1\.0: is below"),
        ({"objectives": ["speed"]}, r"objectives: 'speed'"),
        ({"launcher": "x.JoblibLauncher"}, r"launcher=parallel: without effect"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(**changes)


def test_an_objective_that_is_measured_needs_a_measurement() -> None:
    def untimed(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
        return check([*overrides, "measure.timing=none"])

    settings = OmegaConf.create(SETTINGS | {"objectives": ["accuracy", "ms_per_step"]})
    with pytest.raises(UserError, match="objective ms_per_step is measured"):
        check_search(settings, BASIC, ["schedule=uniform"], untimed)
    assert check_search(settings, BASIC, ["schedule=uniform"], check)
