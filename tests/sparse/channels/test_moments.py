import torch

from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.moments import LayerMoments, from_tensors, to_tensors
from tests.conftest import tiny_batch, tiny_model


def test_survives_the_way_through_tensors() -> None:
    moments = calibrate(tiny_model("bert"), [tiny_batch()])
    again = from_tensors(to_tensors(moments), torch.device("cpu"))
    assert again.keys() == moments.keys()
    assert torch.equal(again["layer.2"].cross, moments["layer.2"].cross)


def test_covariances_are_those_of_the_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    x, a, z = (
        torch.randn(50, size, generator=generator, dtype=torch.float64) + 2 for size in (4, 6, 4)
    )
    mean = [each.mean(0) for each in (x, a, z)]
    moments = LayerMoments(
        mean[0],
        x.T @ x / 50,
        mean[1],
        a.square().mean(0),
        x.T @ a / 50,
        mean[2],
        z.T @ z / 50,
    )
    joint = torch.cov(torch.cat([x, a], 1).T, correction=0)
    torch.testing.assert_close(moments.input_covariance(), joint[:4, :4])
    torch.testing.assert_close(moments.cross_covariance(), joint[:4, 4:])
    torch.testing.assert_close(moments.activation_variance(), joint[4:, 4:].diagonal())
    attention = moments.attention.input_covariance()
    torch.testing.assert_close(attention, torch.cov(z.T, correction=0))


def test_a_variance_is_never_below_0() -> None:
    moments = calibrate(tiny_model("bert"), [tiny_batch()])["layer.0"]
    moments.activation_square = moments.activation_mean.square() * (1 - 1e-9)
    assert (moments.activation_variance() == 0).all()
