"""A backbone in 4 bits, against a dense one that holds what the bits stand for."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from sparselora import SparsityConfig, UserError, calibrate, sparsify
from sparselora.sparse.architectures import ARCHITECTURES
from sparselora.sparse.blocks import find_blocks
from sparselora.sparse.config import ESTIMATORS
from sparselora.sparse.quantized import dequantized, is_quantized
from tests.conftest import tiny_batch, tiny_config
from tests.sparse.test_ffn import assert_all_close, assert_as_near, gradients
from tests.sparse.test_ffn import masked_reference as masked_ffn
from tests.sparse.test_sparse_attention import masked_reference as masked_attention

pytest.importorskip("bitsandbytes")
BATCH = tiny_batch()
CONFIG = SparsityConfig(svd_rank=3, ffn_sparsity=0.6)
NEAR = {"rtol": 1e-4, "atol": 1e-5}
"""Nothing in 4 bits is float64."""


def quantized(
    model_type: str,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    ffn: bool = False,
    **lora: Any,
) -> nn.Module:
    """A tiny classifier in 4 bits, with LoRA on its attention, or on its FFN."""
    row = ARCHITECTURES[model_type]
    torch.manual_seed(0)
    auto = transformers.AutoModelForSequenceClassification
    auto.from_config(tiny_config(model_type)).save_pretrained(folder)
    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(row.head),
    )
    base = auto.from_pretrained(folder, dtype=dtype, quantization_config=how)
    for module in base.modules():
        if is_quantized(module) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.3)
    maps = (row.lin1, row.lin2, row.gate or row.lin1) if ffn else row.attention
    targets = sorted({name.split(".", 2)[-1] if ffn else name for name in maps})
    settings: dict[str, Any] = {"r": 4, "target_modules": targets, "init_lora_weights": False}
    config = LoraConfig(task_type="SEQ_CLS", modules_to_save=list(row.head), **settings | lora)
    return get_peft_model(base, config).train()


def unpacked(model: nn.Module) -> nn.Module:
    """A copy whose 4-bit maps are plain ones that hold the same weights."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if is_quantized(module):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            plain.weight = nn.Parameter(dequantized(module).clone(), requires_grad=False)
            plain.bias = module.bias
            twin.set_submodule(name, plain)
    return twin


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_equals_the_masked_dense_model(model_type: str, tmp_path: Path) -> None:
    model = quantized(model_type, tmp_path)
    twin = unpacked(model)
    assert_all_close(gradients(model, BATCH), gradients(twin, BATCH), **NEAR)
    handle = sparsify(model, CONFIG)
    got = gradients(model, BATCH)
    chosen = {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}
    assert {len(indices) for indices in chosen.values()} == {15}
    assert_all_close(got, gradients(masked_ffn(twin, chosen), BATCH), **NEAR)
    with pytest.raises(AssertionError):
        assert_all_close(got, gradients(twin, BATCH), **NEAR)
    handle.remove()
    assert_all_close(gradients(model, BATCH), gradients(twin, BATCH), **NEAR)


@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt2", "phi3"])
def test_attention_equals_the_masked_dense_model(model_type: str, tmp_path: Path) -> None:
    model = quantized(model_type, tmp_path)
    twin = unpacked(model)
    config = replace(CONFIG, ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.4)
    handle = sparsify(model, config)
    got = gradients(model, BATCH)
    assert_all_close(got, gradients(masked_attention(twin, handle), BATCH), **NEAR)


@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt2", "phi3"])
def test_adapters_on_the_ffn_stay_whole(model_type: str, tmp_path: Path) -> None:
    model = quantized(model_type, tmp_path, ffn=True)
    twin = unpacked(model)
    assert all(block.has_adapters for block in find_blocks(twin))
    handle = sparsify(model, CONFIG)
    got = gradients(model, BATCH)
    for block in find_blocks(twin):
        keep = torch.zeros(37)
        keep[handle.sparse_blocks[block.name].chosen] = 1
        # Masked before lin2 and its adapter alike.
        block.lin2.module.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep,))
    assert_all_close(got, gradients(twin, BATCH), **NEAR)


@pytest.mark.parametrize("estimator", ["svd", "whitened", "static", "oracle", "magnitude"])
def test_estimators_see_what_the_bits_stand_for(estimator: str, tmp_path: Path) -> None:
    model = quantized("llama", tmp_path)
    twin = unpacked(model)
    rank = 3 if ESTIMATORS[estimator].has_rank else None
    config = replace(CONFIG, svd_rank=rank, estimator=estimator, qk_sparsity=0.5)
    if estimator != "magnitude":
        config = replace(config, compensation="lowrank")
    one, other = (sparsify(each, config, calibrate(each, [BATCH])) for each in (model, twin))
    assert_all_close(gradients(model, BATCH), gradients(twin, BATCH), **NEAR)
    for name, ffn in one.sparse_blocks.items():
        assert torch.equal(ffn.chosen, other.sparse_blocks[name].chosen)


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_is_about_as_near_as_the_plain_maps(autocast: bool, tmp_path: Path) -> None:
    model = quantized("llama", tmp_path, torch.bfloat16)
    twin = unpacked(model)
    exact = copy.deepcopy(twin).float()
    chosen = {}
    got = []
    for each in (model, twin):
        handle = sparsify(each, replace(CONFIG, estimator="magnitude", svd_rank=None))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got.append(gradients(each, BATCH))
        chosen = {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}
    assert_as_near(*got, gradients(masked_ffn(exact, chosen), BATCH))


def test_training_goes_on_after_an_evaluation(tmp_path: Path) -> None:
    # On a CPU with bfloat16 instructions bitsandbytes packs each map anew in the first evaluation:
    # what trained afterwards had other weights, and no gradient through them.
    model = quantized("llama", tmp_path)
    for module in model.modules():
        if is_quantized(module):  # whatever this machine has
            module.support_avx512bf16_for_cpu = True
    twin = unpacked(model)
    calibrate(model, [BATCH])
    handle = sparsify(model, CONFIG)
    with torch.no_grad(), handle.dense():
        model.eval()(**BATCH)
    handle.disable()
    assert_all_close(gradients(model.train(), BATCH), gradients(twin, BATCH), **NEAR)
    handle.remove()
    assert all(each.support_avx512bf16_for_cpu for each in model.modules() if is_quantized(each))


def test_a_map_packed_for_inference_is_refused(tmp_path: Path) -> None:
    model = quantized("llama", tmp_path)
    find_blocks(model)[0].lin1.base.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UserError, match="packed its 4-bit weights"):
        sparsify(model, CONFIG)


def test_eight_bits_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    auto = transformers.AutoModelForSequenceClassification
    auto.from_config(tiny_config("bert")).save_pretrained(tmp_path)
    how = transformers.BitsAndBytesConfig(load_in_8bit=True)
    model = auto.from_pretrained(tmp_path, quantization_config=how)
    with pytest.raises(
        UserError, match="is a Linear8bitLt; a linear map, plain or in bitsandbytes' 4"
    ):
        sparsify(model, CONFIG)


def test_a_copy_is_sparse_too(tmp_path: Path) -> None:
    model = quantized("llama", tmp_path)
    sparsify(model, CONFIG)
    expected = gradients(model, BATCH)
    assert_all_close(gradients(copy.deepcopy(model), BATCH), expected)
