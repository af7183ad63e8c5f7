import pytest

from sparselora.errors import UserError
from sparselora.sparse.config import SparsityConfig
from tests.conftest import plain


def test_rules_and_named_layers() -> None:
    config = plain(qk_sparsity=0.4, rule="deeper", layer_vo_sparsity={"layer.0": 0.5})
    assert config.attention_sparsities(4) == [(0.0, 0.5), (0.0, 0.0), (0.8, 0.0), (0.8, 0.0)]
    named = plain(qk_sparsity=0.4, rule="explicit")
    assert named.attention_sparsities(2) == [(0.4, 0.0), (0.4, 0.0)]
    with pytest.raises(UserError, match=r"layer_qk_sparsity\.layer\.0=1"):
        plain(layer_qk_sparsity={"layer.0": 1.0})
    with pytest.raises(UserError, match="attention_scope=heads"):
        plain(attention_scope="heads")


def test_config_checks_itself() -> None:
    for bad in ({"svd_rank": 0}, {"svd_rank": None}, {"ffn_sparsity": 1.0}, {"estimator": "x"}):
        with pytest.raises(UserError, match=r"allowed|must be one of"):
            SparsityConfig(**bad)  # type: ignore[arg-type]


def test_what_error_curves_are_measured_with() -> None:
    config = plain(
        qk_sparsity=0.4, layer_vo_sparsity={"layer.0": 0.5}, tokens="context", ffn_sparsity=0.6
    )
    alone = config.of_ffn_alone()
    assert not alone.sparsifies_attention
    assert (alone.tokens, alone.ffn_sparsity) == ("all", 0.6)
    assert config.sparsifies_attention


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"estimator": "static"}, True),
        ({"compensation": "mean"}, True),
        ({"rule": "calibrated"}, True),
        ({"estimator": "magnitude"}, False),
    ],
)
def test_calibration_is_needed_by_what_is_fitted(changes: dict[str, str], needed: bool) -> None:
    assert plain(**changes).needs_calibration == needed


def test_ranks_are_checked_against_the_models_sizes() -> None:
    plain(svd_rank=24).check_rank(24, 37)
    with pytest.raises(UserError, match=r"svd_rank=25: this model's lin1 is 37 × 24"):
        plain(svd_rank=25).check_rank(24, 37)
    plain(estimator="static", svd_rank=99).check_rank(24, 37)  # it has none
    with pytest.raises(UserError, match=r"compensation\.rank=25.*from 1 to 24"):
        plain(svd_rank=3, compensation="lowrank", compensation_rank=25).check_rank(24, 37)
