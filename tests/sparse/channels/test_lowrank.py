import pytest
import torch
from torch import nn

from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.lowrank import SVDSparsityEstimator
from tests.conftest import tiny_batch, tiny_model


@pytest.mark.parametrize("rank", [1, 3, 24])
def test_svd_is_the_best_approximation_of_its_rank(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(37, 24, generator=generator, dtype=torch.float64)
    bias = torch.randn(37, generator=generator, dtype=torch.float64)
    estimator = SVDSparsityEstimator(weight, bias, rank)
    assert estimator.down.shape == (rank, 24)
    assert estimator.up.shape == (37, rank)
    x = torch.randn(11, 24, generator=generator, dtype=torch.float64)
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    reference = (left[:, :rank] * singular[:rank]) @ right[:rank]
    torch.testing.assert_close(estimator(x), x @ reference.t() + bias)
    if rank == 24:
        torch.testing.assert_close(estimator(x), nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize("rank", [0, 25])
def test_rank_out_of_range(rank: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 24"):
        SVDSparsityEstimator(torch.randn(37, 24), None, rank)


def test_whitening_has_the_least_error_on_the_inputs_it_saw() -> None:
    model = tiny_model("bert")
    moments = calibrate(model, [tiny_batch(16, 12)])["layer.1"]
    block = find_blocks(model)[1]
    weight, bias = block.lin1.weight, block.lin1.bias
    generator = torch.Generator().manual_seed(0)
    values, vectors = torch.linalg.eigh(moments.input_covariance())
    root = vectors * values.clamp_min(0).sqrt()
    draws = torch.randn(4000, 24, generator=generator, dtype=torch.float64)
    x = (draws @ root.T + moments.input_mean).float()
    exact = torch.nn.functional.linear(x, weight, bias)
    errors = {}
    for name, given in (("plain", None), ("whitened", moments)):
        for rank in (3, 24):
            estimate = SVDSparsityEstimator(weight, bias, rank, given)(x)
            errors[name, rank] = float((estimate - exact).norm() / exact.norm())
    assert errors["whitened", 3] < 0.8 * errors["plain", 3]
    assert errors["plain", 24] < 1e-4
    assert errors["whitened", 24] < 1e-2
