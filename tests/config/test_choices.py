import pytest

from sparselora.config.choices import check_choices
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError


def _run(sparsity: float = 0.0, path: str = "asset:critics") -> RunConfig:
    run = RunConfig(ffn_sparsity=sparsity, sparse_warmup_ratio=0.0, seed=1)
    run.schedule.name, run.schedule.rule = "uniform", "uniform"
    run.estimator.name, run.compensation.name, run.svd_rank = "svd", "none", 4
    run.data.path = path
    return run


def test_plain_lora_with_something_sparse_beside_it_is_refused() -> None:
    dense = {"experiment": "dense", "schedule": "uniform"}
    check_choices(_run(), dense, {"ffn_sparsity"})
    check_choices(_run(0.5), {"experiment": "optimized"}, {"ffn_sparsity"})
    with pytest.raises(
        WithoutEffectError, match=r"^ffn_sparsity=0.5: contradicts experiment=dense"
    ):
        check_choices(_run(0.5), dense, {"ffn_sparsity"})
    with pytest.raises(
        WithoutEffectError, match=r"^schedule=uniform: contradicts experiment=dense"
    ):
        check_choices(_run(0.5), dense, {"schedule"})


@pytest.mark.parametrize("path", ["mine.csv", "dataset:mine"])
def test_data_of_ones_own_need_columns_of_their_own(path: str) -> None:
    embedded = {"data": "critics"}
    with pytest.raises(UserError, match="add data=table"):
        check_choices(_run(path=path), embedded, {"data.path"})
    check_choices(_run(path=path), {"data": "table"}, {"data.path", "data"})
    check_choices(_run(), embedded, {"data.path"})
