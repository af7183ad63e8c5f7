import pytest
import torch
from torch import nn

from sparselora import build_ffn_estimators
from sparselora.errors import UserError
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.ffn_estimators import FFNEstimator
from sparselora.sparse.channels.lowrank import SVDSparsityEstimator
from tests.conftest import tiny_model


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama"])
def test_rank_reaches_factors_and_scores(model_type: str) -> None:
    # An earlier implementation never passed the configured rank on: it was always 8.
    model = tiny_model(model_type)
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(3))
    scores = {}
    for rank in (2, 4, 8):
        estimators = build_ffn_estimators(model, rank)
        assert list(estimators) == ["layer.0", "layer.1", "layer.2"]
        for estimator in estimators.values():
            assert estimator.lin1.down.shape == (rank, 24)
            assert estimator.lin1.up.shape == (37, rank)
        scores[rank] = estimators["layer.1"](x)
    assert not torch.allclose(scores[2], scores[4])
    assert not torch.allclose(scores[4], scores[8])


def test_scores_use_the_blocks_own_activation_and_bias() -> None:
    # Earlier implementations scored a GELU block by SiLU(z) · z, and dropped the bias.
    model = tiny_model("bert")
    block = find_blocks(model)[0]
    nn.init.normal_(block.lin1.bias)
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(4))
    full_rank = build_ffn_estimators(model, 24)["layer.0"]
    exact = nn.functional.gelu(nn.functional.linear(x, block.lin1.weight, block.lin1.bias))
    torch.testing.assert_close(full_rank(x), exact.norm(dim=0))


def test_token_weights_leave_tokens_out() -> None:
    estimator = FFNEstimator(SVDSparsityEstimator(torch.randn(9, 6), torch.randn(9), 3), nn.GELU())
    x = torch.randn(5, 6)
    weights = torch.tensor([1.0, 0, 1, 1, 0]).unsqueeze(1)
    torch.testing.assert_close(estimator(x, weights), estimator(x[[0, 2, 3]]))


def test_estimator_rejects_a_rank_the_model_does_not_have() -> None:
    with pytest.raises(UserError, match=r"svd_rank=25.*from 1 to 24"):
        build_ffn_estimators(tiny_model("bert"), 25)
