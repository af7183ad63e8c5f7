"""torch's dropout module, made faster."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.acceleration.dropout import FastDropout, fast_dropout
from sparselora.sparse.ops import dropout
from sparselora.sparse.ops import dropout_attention as attention
from sparselora.sparse.ops.dropout import keep_mask
from tests.conftest import tiny_batch, tiny_model


def test_dropout_values_and_gradient() -> None:
    module = nn.Dropout(0.25)
    holder = nn.Sequential(module)
    fast = FastDropout(0.25)
    x = torch.randn(40, 50, dtype=torch.float64, requires_grad=True)
    y = fast(x)
    kept = (y != 0).double()
    torch.testing.assert_close(y, x * kept / 0.75)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, kept / 0.75)
    assert torch.equal(fast.eval()(x), x)
    assert holder[0](x).shape == x.shape


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_mean_of_many_masks_is_that_of_the_stock_model(model_type: str) -> None:
    """Every dropout of the model still drops, at its own rate: the loss has the same mean."""
    stock = tiny_model(model_type, dropout=0.3)
    fast = copy.deepcopy(stock)
    accelerate(fast)
    batch = tiny_batch(16, 9)
    losses = {}
    for name, model in (("stock", stock), ("fast", fast)):
        torch.manual_seed(0)
        drawn = torch.stack([model(**batch).loss.detach() for _ in range(150)])
        spread = float(drawn.std())
        losses[name] = (float(drawn.mean()), spread / math.sqrt(len(drawn)), spread)
    gap = abs(losses["fast"][0] - losses["stock"][0])
    assert gap < 4 * math.hypot(losses["fast"][1], losses["stock"][1])
    assert losses["fast"][2] == pytest.approx(losses["stock"][2], rel=0.3)


def test_every_dropout_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def counted(shape: torch.Size, rate: float, device: torch.device) -> Tensor:
        calls.append(rate)
        return keep_mask(shape, rate, device)

    for module in (dropout, attention):
        monkeypatch.setattr(module, "keep_mask", counted)
    model = tiny_model("distilbert", dropout=0.1)
    accelerate(model)
    model(**tiny_batch())
    # 3 layers: 4 adapters, attention, FFN; then embeddings and the head.
    assert len(calls) == 3 * 6 + 2


def test_others_are_left_alone() -> None:
    assert fast_dropout(nn.Dropout) is FastDropout
    assert fast_dropout(nn.AlphaDropout) is None
    assert fast_dropout(type("OwnDropout", (nn.Dropout,), {})) is None
