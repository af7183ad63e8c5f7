import copy
from functools import partial

import numpy as np
import pytest
import torch

from sparselora import SparsityConfig, sparsify
from sparselora.config.schema import MeasureConfig, TrainConfig
from sparselora.machine.lock import DeviceLock
from sparselora.machine.memory import step_memory
from sparselora.measuring.arms import AGAIN, FAST_AGAIN, OWN, SPARSE, STOCK, Arms
from sparselora.measuring.interleave import Budget, interleave
from sparselora.measuring.measure import _least_sure, _speedup, measure
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.channels.calibration import calibrate
from tests.conftest import plain, tiny_batch, tiny_model
from tests.machine.test_timer import Fixed

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


def test_arms_are_what_they_say() -> None:
    model = tiny_model("bert")
    arms = Arms(model, SPARSITY, TrainConfig(learning_rate=1e-9), CPU)
    assert arms.handle is not None
    calls = lambda: sum(ffn.calls for ffn in arms.handle._sparse.values())  # noqa: E731
    steps = ((STOCK, 0), (AGAIN, 0), (OWN, 0), (SPARSE, 3), (OWN, 3), (FAST_AGAIN, 6))
    for name, expected in steps:
        arms.step(name, [tiny_batch()])
        assert calls() == expected, name
    # Stock is PEFT's own model: no stand-in, no hook, lin2 laid out as it was.
    stock = arms.models[STOCK]
    assert not any(type(module).__module__.startswith("sparselora") for module in stock.modules())
    assert not any(module._forward_pre_hooks for module in stock.modules())
    weights = dict(stock.named_parameters())
    assert all(weights[name].stride() == p.stride() for name, p in model.named_parameters())
    # What is frozen and laid out alike is shared; what trains is not.
    for name, parameter in model.named_parameters():
        relaid = name.endswith("output.dense.weight") and "attention" not in name
        assert (weights[name] is parameter) == (not parameter.requires_grad and not relaid), name


def test_sparse_attention_is_laid_out_anew_in_its_own_arm_alone() -> None:
    """Stock was timed with the output maps that our arm had laid out for itself."""
    model = tiny_model("bert")
    strides = {name: p.stride() for name, p in model.named_parameters()}
    arms = Arms(model, ATTENTION, TrainConfig(), CPU)
    for copied in (model, arms.models[STOCK]):
        assert strides == {name: p.stride() for name, p in copied.named_parameters()}
    ours = {name: p.stride() for name, p in arms.models[OWN].named_parameters()}
    assert any(ours[name] != stride for name, stride in strides.items() if "attention" in name)


def test_memory_of_a_step_counts_what_stays_from_step_to_step() -> None:
    model = tiny_model("bert", intermediate_size=400)
    batch = tiny_batch(2, 5)
    config = plain(ffn_sparsity=0.5, estimator="static", compensation="lowrank")
    arms = Arms(model, config, TrainConfig(), CPU, calibrate(model, [batch]))
    assert arms.handle is not None
    arms.step(SPARSE, [batch])
    held = sum(tensor.nbytes for tensor in arms.handle.held())
    slices = 3 * 2 * 200 * 24 * 4  # three layers, two maps, k of d, float32
    assert slices < held < 2 * slices
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    everything = sum(p.nbytes for p in model.parameters()) + held + 2 * trained
    peak = arms.memory(SPARSE, [batch])["peak_mb"]
    assert peak is None or peak >= everything / 1e6


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


def test_saved_bytes_are_those_of_one_micro_batch() -> None:
    model = tiny_model("bert")
    batches = [tiny_batch(4, 9), tiny_batch(8, 12), tiny_batch(2, 5)]

    def step(these: list[dict[str, torch.Tensor]]) -> None:
        for batch in these:
            model(**batch).loss.backward()

    of_all = step_memory(model, lambda: step(batches), CPU)["saved_mb"]
    of_largest = step_memory(model, lambda: step([batches[1]]), CPU)["saved_mb"]
    assert of_all == of_largest


def test_a_sparse_step_keeps_less_for_the_backward_pass() -> None:
    dense = tiny_model("bert", intermediate_size=400)
    sparse = copy.deepcopy(dense)
    accelerate(dense)
    sparsify(sparse, plain(svd_rank=3, ffn_sparsity=0.9))
    batch = tiny_batch(32, 30)
    memory = [
        step_memory(model, lambda model=model: model(**batch).loss.backward(), CPU)["saved_mb"]
        for model in (dense, sparse)
    ]
    assert memory[0] is not None
    assert memory[1] is not None
    # Nine tenths of the pre-activations, (N, f) in float32 a layer, of the first tokens in the last;
    # lin2 is frozen, so what it takes in is not kept in either model. The gathered weights, two (k, d),
    # are what comes on top.
    left_out = (2 * 32 * 30 + 32) * 360 * 4 / 1e6
    gathered = 3 * 2 * 40 * 24 * 4 / 1e6
    assert memory[0] - memory[1] == pytest.approx(left_out - gathered, rel=0.02)
