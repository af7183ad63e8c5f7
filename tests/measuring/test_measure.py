from functools import partial

import numpy as np
import pytest
import torch

from sparselora import SparsityConfig
from sparselora.config.groups import MeasureConfig, TrainConfig
from sparselora.machine.lock import DeviceLock
from sparselora.measuring.arms import AGAIN, FAST_AGAIN, OWN, SPARSE, STOCK
from sparselora.measuring.interleave import Budget, interleave
from sparselora.measuring.measure import _least_sure, _speedup, measure
from tests.conftest import plain, tiny_batch, tiny_model
from tests.measuring.test_interleave import Fixed

CPU = torch.device("cpu")
SPARSITY = plain(svd_rank=3, ffn_sparsity=0.6)
ATTENTION = plain(svd_rank=3, ffn_sparsity=0.6, qk_sparsity=0.5, vo_sparsity=0.5)
FEW = MeasureConfig(min_rounds=5, max_rounds=5, seconds=30.0)


@pytest.mark.parametrize("sparsity", [SPARSITY, ATTENTION, None])
def test_nothing_measured_touches_the_model(sparsity: SparsityConfig | None) -> None:
    model = tiny_model("bert", dropout=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = dict(model.named_modules())
    strides = {name: p.stride() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    batches = [tiny_batch(4, 9), tiny_batch(3, 7)]
    timing = measure(model, sparsity, batches, TrainConfig(), FEW, CPU, DeviceLock(CPU))
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert dict(model.named_modules()) == modules
    assert strides == {name: p.stride() for name, p in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert timing["rounds"] == 5
    assert timing["speedup_low"] <= timing["speedup"] <= timing["speedup_high"]
    assert timing["aa_low"] <= timing["aa_speedup"] <= timing["aa_high"]
    assert (timing["sparse_ms"] is None) == (sparsity is None)
    assert (timing["own_speedup"] is None) == (sparsity is None)
    assert timing["saved_for_backward_mb"] > 0


def test_the_speedup_covers_as_often_as_it_says_with_its_early_stop() -> None:
    # Of steps that are equal but for noise, and now and then a delay.
    generator = np.random.default_rng(3)
    settings, hits, repeats = MeasureConfig(), 0, 120

    def noisy(_: int) -> Fixed:
        delay = generator.exponential(30) if generator.random() < 0.1 else 0.0
        return Fixed(100 * float(np.exp(generator.normal(0, 0.03))) + delay)

    names = (STOCK, AGAIN, OWN, SPARSE, FAST_AGAIN)
    for repeat in range(repeats):
        budget = Budget(settings.min_rounds, 200, 60.0, settings.interval_width, warmup_rounds=0)
        watched = partial(_least_sure, fast=SPARSE)
        times = interleave(dict.fromkeys(names, noisy), budget, watched, seed=repeat)
        interval = _speedup(times, SPARSE)
        hits += interval.low <= 1.0 <= interval.high
    assert hits / repeats >= 0.90
