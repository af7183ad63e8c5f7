"""On a CUDA device, where there is one: against the dense reference there, and without hidden waits."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparselora import SparsityConfig, accelerate, calibrate, sparsify
from sparselora.config.groups import TrainConfig
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.training.stepper import Stepper
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.backbone.test_quantized import quantized, unpacked
from tests.sparse.blocks.test_attention import masked_reference as masked_attention
from tests.sparse.blocks.test_ffn import (
    assert_all_close,
    assert_as_near,
    gradients,
    masked_reference,
)
from tests.sparse.channels.test_tokens import DECODERS, completions, tiny_decoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CONFIG = plain(svd_rank=3, ffn_sparsity=0.6)
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def on_device(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cuda() for name, tensor in batch.items()}


@contextmanager
def noting_waits() -> Iterator[list[str]]:
    """Where, by file and line, the host waited for the device inside."""
    places: list[str] = []
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


def masked(model: nn.Module, chosen: dict[str, Tensor]) -> nn.Module:
    return masked_reference(model.cpu(), {name: rows.cpu() for name, rows in chosen.items()}).cuda()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_equals_the_masked_dense_model(model_type: str) -> None:
    model = tiny_model(model_type).double().cuda()
    pristine = copy.deepcopy(model)
    batch = on_device(tiny_batch())
    handle = sparsify(model, CONFIG)
    got = gradients(model, batch)
    chosen = {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}
    assert all(rows.is_cuda and len(rows) == 15 for rows in chosen.values())
    assert_all_close(got, gradients(masked(pristine, chosen), batch))


@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt2", "phi3", "qwen3"])
def test_sparse_attention(model_type: str) -> None:
    model = tiny_model(model_type).double()
    pristine = copy.deepcopy(model)
    handle = sparsify(
        model.cuda(), replace(CONFIG, ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.4)
    )
    got = gradients(model, on_device(tiny_batch()))
    for each in handle.sparse_attention.values():
        each.choice.chosen = type(each.chosen)(*(rows.cpu() for rows in each.chosen))
    expected = gradients(masked_attention(pristine, handle).cuda(), on_device(tiny_batch()))
    assert_all_close(got, expected)


@pytest.mark.parametrize("model_type", DECODERS)
def test_context_alone_chooses_and_computes_as_on_a_cpu(model_type: str) -> None:
    got = {}
    for device in ("cpu", "cuda"):
        model = tiny_decoder(model_type).to(device)
        sparsify(model, replace(CONFIG, tokens="context", qk_sparsity=0.5, vo_sparsity=0.4))
        batch = {name: tensor.to(device) for name, tensor in completions().items()}
        got[device] = {name: each.cpu() for name, each in gradients(model, batch).items()}
    assert_all_close(got["cuda"], got["cpu"], **NEAR)


@pytest.mark.parametrize("estimator", ["whitened", "static", "oracle", "random"])
def test_estimators_choose_as_on_a_cpu(estimator: str) -> None:
    rank = 3 if estimator == "whitened" else None
    config = replace(CONFIG, svd_rank=rank, estimator=estimator, qk_sparsity=0.5)
    if estimator != "random":  # which draws from a generator of the device
        config = replace(config, compensation="lowrank")
    chosen = {}
    for device in ("cpu", "cuda"):
        model = tiny_model("llama").double().to(device)
        batch = {name: tensor.to(device) for name, tensor in tiny_batch().items()}
        handle = sparsify(model, config, calibrate(model, [batch]))
        model(**batch)
        chosen[device] = [ffn.chosen.tolist() for ffn in handle.sparse_blocks.values()]
        state = handle.state_dict()
        handle.load_state_dict(state)
        model(**batch)
    assert estimator == "random" or chosen["cpu"] == chosen["cuda"]


@pytest.mark.parametrize("model_type", ["distilbert", "llama", "modernbert", "phi3"])
def test_bf16_under_autocast(model_type: str) -> None:
    model = tiny_model(model_type).cuda()
    pristine = copy.deepcopy(model)
    config = replace(CONFIG, estimator="magnitude", svd_rank=None)
    handle = sparsify(model, config)
    batch = on_device(tiny_batch())
    with torch.autocast("cuda", torch.bfloat16):
        got = gradients(model, batch)
    chosen = {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}
    reference = masked(pristine, chosen)
    with torch.autocast("cuda", torch.bfloat16):
        other = gradients(reference, batch)
    assert_as_near(got, other, gradients(reference, batch))


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_our_dense_path_equals_stock(model_type: str) -> None:
    model = tiny_model(model_type).double().cuda()
    expected = gradients(model, on_device(tiny_batch()))
    accelerate(model)
    assert_all_close(gradients(model, on_device(tiny_batch())), expected)


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_masks_are_those_of_stock(model_type: str) -> None:
    model = tiny_model(model_type, dropout=0.3).double().cuda()
    batch = on_device(tiny_batch())
    torch.manual_seed(3)
    expected = gradients(model, batch)
    accelerate(model)
    torch.manual_seed(3)
    assert_all_close(gradients(model, batch), expected)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "bert"])
def test_bf16_weights_are_as_near_as_stock(model_type: str) -> None:
    exact = tiny_model(model_type).cuda()
    model = copy.deepcopy(exact).bfloat16()
    batch = on_device(tiny_batch())
    expected, stock = gradients(exact.bfloat16().float(), batch), gradients(model, batch)
    accelerate(model)
    with torch.autocast("cuda", torch.bfloat16):
        assert_as_near(gradients(model, batch), stock, expected)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama", "modernbert"])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, qk_sparsity=0.5, vo_sparsity=0.4),
        replace(CONFIG, estimator="static", svd_rank=None, compensation="lowrank"),
    ],
    ids=["svd", "attention", "static"],
)
def test_a_sparse_step_does_not_wait_for_the_device(
    model_type: str, config: SparsityConfig
) -> None:
    model = tiny_model(model_type, dropout=0.1).cuda()
    batch = on_device(tiny_batch(padded=False))
    sparsify(model, config, calibrate(model, [batch]) if config.needs_calibration else None)
    stepper = Stepper(model, TrainConfig(), 1000, torch.device("cuda"))
    for _ in range(3):  # what is chosen or compiled once may wait
        stepper.step([batch])
    torch.cuda.synchronize()
    with noting_waits() as seen:
        torch.ones(1, device="cuda").item()
    assert seen  # else a wait would not be seen below either
    with noting_waits() as places:
        _, _, timer = stepper.step([batch])
    # transformers itself looks at the mask.
    assert not [place for place in places if "transformers" not in place]
    torch.cuda.synchronize()
    assert timer.milliseconds() > 0


def test_four_bits(tmp_path: Path) -> None:
    for model_type, dtype in (("llama", torch.float32), ("bert", torch.float32)):
        model = quantized(model_type, tmp_path / model_type, dtype).cuda()
        twin = unpacked(model)
        batch = on_device(tiny_batch())
        assert_all_close(gradients(model, batch), gradients(twin, batch), **NEAR)
        handle = sparsify(model, CONFIG)
        got = gradients(model, batch)
        chosen = {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}
        assert_all_close(got, gradients(masked(twin, chosen), batch), **NEAR)
