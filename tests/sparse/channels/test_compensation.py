"""What stands in for the channels left out, against least squares by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparselora import sparsify
from sparselora.errors import UserError
from sparselora.sparse.backbone.ffn import FFNBlock, find_blocks
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.compensation import (
    Compensation,
    fixed_correction,
    lowrank_compensation,
    mean_compensation,
    reduced_rank,
)
from sparselora.sparse.channels.moments import LayerMoments
from sparselora.sparse.channels.selector import FFNChannels
from sparselora.sparse.channels.state import SparsityState
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import gradients, with_lora_on_the_ffn

CONFIG = plain(svd_rank=3, ffn_sparsity=0.6, estimator_tokens=None)


def calibrated_block(model_type: str) -> tuple[FFNBlock, LayerMoments, Tensor]:
    """A block, its moments, and the very inputs (n, d) that they are moments of."""
    model = tiny_model(model_type).double()
    batch = tiny_batch(24, 11, padded=False)
    moments = calibrate(model, [batch])["layer.1"]
    block = find_blocks(model)[1]
    inputs: list[Tensor] = []
    block.entry.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.eval()(**batch)
    return block, moments, inputs[0].reshape(-1, 24).detach()


def test_reduced_rank_regression_against_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(6, 5, generator=generator, dtype=torch.float64)
    y = y + 0.1 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    down, up = reduced_rank(x.T @ x / 200, x.T @ y / 200, 5)
    torch.testing.assert_close(down @ up, torch.linalg.lstsq(x, y).solution, atol=1e-4, rtol=1e-4)
    # The best map of rank 2: least squares, then the SVD of what it fits.
    fitted = x @ torch.linalg.lstsq(x, y).solution
    _, _, right = torch.linalg.svd(fitted, full_matrices=False)
    down, up = reduced_rank(x.T @ x / 200, x.T @ y / 200, 2)
    best = fitted @ right[:2].T @ right[:2]
    torch.testing.assert_close(x @ down @ up, best, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["static", "oracle", "whitened", "svd"])
@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt2", "modernbert"])
def test_it_adds_what_its_model_of_the_left_out_says(model_type: str, estimator: str) -> None:
    block, moments, x = calibrated_block(model_type)
    dense = block.lin2(block.activations(x))
    gaps = {}
    for compensation in ("none", "mean", "lowrank"):
        config = replace(
            CONFIG, estimator=estimator, compensation=compensation, compensation_rank=6
        )
        ffn = SparseFFN(block, config, 15, SparsityState(), moments)
        ffn.state.enter(None)
        got = ffn.forward(x)
        gaps[compensation] = float((got - dense).norm() / dense.norm())
        if compensation == "mean":
            left = torch.ones(37, dtype=torch.bool)
            left[ffn.chosen] = False
            a = block.activations(x)
            filled = torch.where(left, moments.activation_mean.double(), a)
            torch.testing.assert_close(got, block.lin2(filled), atol=1e-5, rtol=1e-5)
        if compensation == "lowrank" and estimator == "static":
            # On the calibration tokens themselves no map of its rank is nearer.
            left = torch.ones(37, dtype=torch.bool)
            left[ffn.chosen] = False
            lost = block.activations(x)[:, left] @ block.lin2.weight[:, left].T
            centred = x - x.mean(0)
            fitted = centred @ torch.linalg.lstsq(centred, lost - lost.mean(0)).solution
            _, _, right = torch.linalg.svd(fitted, full_matrices=False)
            best = lost.mean(0) + fitted @ right[:6].T @ right[:6]
            without = SparseFFN(
                block, replace(config, compensation="none"), 15, SparsityState(), moments
            )
            without.choice.chosen = ffn.choice.chosen
            torch.testing.assert_close(got, without.forward(x) + best, atol=1e-3, rtol=1e-3)
    if estimator != "svd":  # whose scores of a random model say too little for an order
        assert gaps["lowrank"] < gaps["mean"] < gaps["none"] * 1.05


def test_another_width_than_the_fitted_one_has_its_own_correction() -> None:
    # `error_curves` changes the width of a fixed choice: it got the map fitted for the first one.
    block, moments, x = calibrated_block("bert")
    config = replace(CONFIG, estimator="static", compensation="lowrank", compensation_rank=6)
    dense = block.lin2(block.activations(x))
    ffn = SparseFFN(block, config, 5, SparsityState(), moments)
    ffn.kept = 30
    bare = SparseFFN(block, replace(config, compensation="mean"), 30, SparsityState(), moments)
    gaps = [float((each.forward(x) - dense).norm()) for each in (ffn, bare)]
    assert torch.equal(ffn.chosen, bare.chosen)
    assert gaps[0] < gaps[1]


@pytest.mark.parametrize("estimator", ["static", "whitened"])
def test_gradients_with_compensation(estimator: str) -> None:
    """Against autograd through the same arithmetic, written plainly."""
    block, moments, x = calibrated_block("bert")
    config = replace(CONFIG, estimator=estimator, compensation="lowrank", compensation_rank=4)
    ffn = SparseFFN(block, config, 15, SparsityState(), moments)
    block.lin1.module.bias.requires_grad_()  # type: ignore[union-attr]
    block.lin2.module.bias.requires_grad_()  # type: ignore[union-attr]
    x = x[:7].clone().requires_grad_()
    got = ffn.forward(x)
    indices = ffn.chosen
    weights = ffn._gather(ffn.choice.chosen, torch.float64)
    shift, down, up = weights.correction
    hidden = nn.functional.gelu(block.lin1(x)[:, indices])
    expected = hidden @ block.lin2.weight[:, indices].T + block.lin2.bias + shift + x @ down @ up
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(7, 24, dtype=torch.float64)
    inputs = [x, block.lin1.module.bias, block.lin2.module.bias]
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_fixed_choice_follows_the_ramp() -> None:
    model = tiny_model("bert")
    config = replace(
        CONFIG,
        estimator="static",
        compensation="lowrank",
        sparse_warmup_ratio=0.2,
        sparse_rampup_ratio=0.4,
        sparse_cooldown_ratio=0.2,
    )
    handle = sparsify(model, config, calibration=tiny_batch())
    ffn = handle._sparse["layer.0"]
    shares, kept = [], []
    for step in range(1, 11):
        shares.append(handle.set_step(step, 10))
        before = ffn.calls
        model(**tiny_batch())
        kept.append(len(ffn.chosen) if ffn.calls > before else None)
    assert shares == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 0, 0])
    # 37 channels at 0.6 · share of the way
    assert kept == [None, None, 33, 28, 24, 19, 15, 15, None, None]


@pytest.mark.parametrize("estimator", ["static", "whitened", "magnitude", "oracle"])
def test_remove_and_evaluation_with_compensation(estimator: str) -> None:
    model = tiny_model("bert")
    expected = copy.deepcopy(model).eval()(**tiny_batch()).logits
    dense = gradients(copy.deepcopy(model), tiny_batch())
    config = replace(CONFIG, estimator=estimator, compensation="lowrank", compensation_rank=2)
    handle = sparsify(model, config, calibration=[tiny_batch()])
    sparse = gradients(model, tiny_batch())
    assert not torch.allclose(sparse["logits"], dense["logits"])
    torch.testing.assert_close(model.eval()(**tiny_batch()).logits, expected)
    handle.remove()
    again = gradients(model.train(), tiny_batch())
    assert all(torch.equal(again[name], dense[name]) for name in dense)


@pytest.mark.parametrize("estimator", ["static", "whitened"])
def test_compensation_under_bf16_stays_near_float32(estimator: str) -> None:
    config = replace(
        CONFIG,
        estimator=estimator,
        compensation="lowrank",
        compensation_rank=4,
        estimator_tokens=None,
    )
    results = []
    for enabled in (False, True):
        model = tiny_model("bert")
        handle = sparsify(model, config, calibration=tiny_batch())
        for ffn in handle.sparse_blocks.values():  # the same channels in both
            ffn.choice.chosen = FFNChannels(torch.arange(0, 30, 2))
            ffn.choice.expires = 10**9
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(gradients(model, tiny_batch()))
    for name, exact in results[0].items():
        gap = (results[1][name].float() - exact).abs().max() / (exact.abs().max() + 1e-6)
        assert gap < 0.06, name


def test_a_bf16_model_with_lora_on_the_ffn_calibrates() -> None:
    # PEFT keeps the adapters of a bfloat16 model in float32.
    model = with_lora_on_the_ffn("llama")
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        handle = sparsify(model, replace(CONFIG, estimator="static"), calibration=tiny_batch())
        gradients(model, tiny_batch())
    assert handle.sparse_blocks["layer.0"].calls == 1


def test_rank_over_hidden_size() -> None:
    with pytest.raises(UserError, match=r"compensation.rank=25.*from 1 to 24"):
        sparsify(
            tiny_model("bert"),
            replace(CONFIG, compensation="lowrank", compensation_rank=25),
            calibration=tiny_batch(),
        )


@pytest.mark.parametrize("kind", ["none", "mean", "lowrank"])
@pytest.mark.parametrize("stays", [False, True])
def test_what_is_fitted_once_and_what_for_every_choice(kind: str, stays: bool) -> None:
    block, moments, _ = calibrated_block("bert")
    config = replace(CONFIG, compensation=kind, compensation_rank=4)
    lin2 = block.lin2.weight.detach()
    chosen = torch.arange(0, 30, 2)
    fitted = Compensation.fitted(config, moments, lin2, chosen if stays else None)
    for indices in (chosen, torch.arange(20)):
        got = fitted.correction(indices, lin2.t()[indices])
        if kind == "none":
            assert got is None
        elif stays and kind == "lowrank" and indices is chosen:
            expected = fixed_correction(moments, lin2, chosen, 4)
            assert got is fitted.correction(indices, lin2.t()[indices])  # nothing is made anew
            torch.testing.assert_close(got, expected)
        else:
            approximated = (
                mean_compensation(moments, lin2)
                if kind == "mean"
                else lowrank_compensation(moments, lin2, 4)
            )
            torch.testing.assert_close(got, approximated.correction(indices, lin2.t()[indices]))


def test_what_is_fitted_for_one_choice_goes_to_its_device() -> None:
    block, moments, _ = calibrated_block("bert")
    config = replace(CONFIG, compensation="lowrank", compensation_rank=4)
    fitted = Compensation.fitted(config, moments, block.lin2.weight.detach(), torch.arange(5))
    rows = torch.empty(5, 24, device="meta")
    got = fitted.correction(torch.arange(5, device="meta"), rows)
    assert got is not None
    assert {part.device.type for part in got if part is not None} == {"meta"}
    assert fitted.correction(torch.arange(5, device="meta"), rows) is got  # moved once
