import pytest

from sparselora.config.naming import describe
from sparselora.config.schema import RunConfig


def _run() -> RunConfig:
    run = RunConfig(ffn_sparsity=0.5, sparse_warmup_ratio=0.1, seed=1, svd_rank=4)
    run.schedule.name, run.schedule.rule = "uniform", "uniform"
    run.estimator.name, run.compensation.name = "svd", "none"
    return run


@pytest.mark.parametrize("key", ["train.learning_rate", "seed", "data", "experiment"])
def test_an_experiment_keeps_its_name_beside_what_it_does_not_fix(key: str) -> None:
    assert describe(_run(), [0.5, 0.5], "optimized", [key]) == "optimized"


@pytest.mark.parametrize("key", ["svd_rank", "schedule", "schedule.rule", "layer_sparsity.layer.0"])
def test_an_experiment_that_was_changed_is_named_by_its_settings(key: str) -> None:
    assert describe(_run(), [0.5, 0.25], "optimized", [key]) == "uniform 0.375 svd rank 4"


def test_no_sparsity_is_dense_and_compensation_is_named() -> None:
    run = _run()
    assert describe(run, [0.0, 0.0], None, []) == "dense"
    run.compensation.name, run.compensation.rank = "lowrank", 64
    assert describe(run, [0.5], None, []) == "uniform 0.5 svd rank 4 + lowrank 64"
