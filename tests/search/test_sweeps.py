"""Every file under sweeps/ runs: two trials beyond the named ones, or a grid of two points."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sparselora.paths import SWEEPS
from tests.conftest import Outcome
from tests.search.test_search import trials

FILES = sorted(SWEEPS.glob("sweep/*.yaml"))
# Without what measures: what the tests ask is whether they run.
QUICK = [
    "measure.timing=none",
    "calibration.batches=1",
    "train.max_steps=4",
    "measure.eval_every=null",
]


def two_points(sweep: Path) -> tuple[list[str], int]:
    settings = OmegaConf.load(sweep).hydra.sweeper
    if "study_name" not in settings:
        first, *rest = settings.params.items()
        changes = [f"hydra.sweeper.params.{key}={str(text).split(',')[0]}" for key, text in rest]
        ends = ",".join([str(first[1]).split(",")[0], str(first[1]).split(",")[-1]])
        return [*changes, f"hydra.sweeper.params.{first[0]}='{ends}'"], 2
    named = settings.get("named", ["dense", "original", "optimized", "fallback"])
    count = len(named) + (2 if settings.get("params") else 0)
    objectives = "hydra.sweeper.objectives=[accuracy,gflops_per_step]"
    return [objectives, f"hydra.sweeper.n_trials={count}", "hydra.sweeper.follow_up=false"], count


@pytest.mark.parametrize("sweep", FILES, ids=lambda path: path.stem)
def test_sweep(
    invoke: Callable[..., Outcome],
    tiny_overrides: list[str],
    decoder_overrides: list[str],
    sweep: Path,
) -> None:
    changes, count = two_points(sweep)
    quick = list(QUICK)
    tiny = decoder_overrides if sweep.stem.startswith("paper_") else tiny_overrides
    if sweep.stem.startswith("paper_"):
        quick.remove("calibration.batches=1")
        swept = set(OmegaConf.load(sweep).hydra.sweeper.params)
        needed = {"svd_rank"} if "estimator" in swept else set()  # random has none
        tiny = [item for item in tiny if item.split("=")[0] not in swept | needed]
    if sweep.stem in (
        "estimators",
        "schedules",
        "rank_by_sparsity",
        "headline",
        "warmup",
        "study_plan",
    ):
        quick.remove("calibration.batches=1")  # without effect in some of the two
    own = {item.split("=")[0] for item in quick}
    rest = [item for item in tiny if item.split("=")[0] not in own]
    outcome = invoke("-m", f"+sweep={sweep.stem}", *changes, *quick, *rest)
    assert outcome.code == 0, outcome.err
    records = outcome.records()
    assert [record["status"] for record in records] == ["completed"] * count
    assert len({record["config_hash"] for record in records}) == count
    if "study_name" in OmegaConf.load(sweep).hydra.sweeper:
        assert len(trials(outcome.folder, sweep.stem)) == count


def test_the_study_plan_ends_with_a_verdict(
    invoke: Callable[..., Outcome], tiny_overrides: list[str]
) -> None:
    rest = [item for item in tiny_overrides if not item.startswith("measure.")]
    few = ["measure.min_rounds=2", "measure.max_rounds=2", "measure.eval_every=null"]
    outcome = invoke("-m", "+sweep=study_plan", *rest, *few, "train.max_steps=4")
    assert outcome.code == 0, outcome.err
    # A tiny model is no faster: the plan drops the SVD, whatever became of the accuracy.
    labels = [trial.user_attrs["named"] for trial in trials(outcome.folder, "study_plan")]
    assert labels[:3] == ["dense", "original", "optimized"]
    assert labels[-1].endswith("estimator=static")
    assert f"the setting that the plan comes to: {labels[-1]}" in outcome.out
    assert "at least 1.11 × stock LoRA: " in outcome.out
    assert "accuracy of at least " in outcome.out
