"""A backbone in 4 bits, against a dense one that holds what the bits stand for."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from sparselora import UserError, calibrate, sparsify
from sparselora.sparse.backbone import linear_layer
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.backbone.quantized import (
    dequantized,
    give_back,
    is_quantized,
    keep_trainable,
)
from sparselora.sparse.estimators import ESTIMATORS
from tests.conftest import plain, tiny_batch, tiny_config
from tests.sparse.blocks.test_attention import masked_reference as masked_attention
from tests.sparse.blocks.test_ffn import assert_all_close, assert_as_near, gradients
from tests.sparse.blocks.test_ffn import masked_reference as masked_ffn

pytest.importorskip("bitsandbytes")
BATCH = tiny_batch()
CONFIG = plain(svd_rank=3, ffn_sparsity=0.6)
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
        UserError, match="is a Linear8bitLt; a linear layer, plain or in bitsandbytes' 4"
    ):
        sparsify(model, CONFIG)


def test_a_copy_is_sparse_too(tmp_path: Path) -> None:
    model = quantized("llama", tmp_path)
    sparsify(model, CONFIG)
    expected = gradients(model, BATCH)
    assert_all_close(gradients(copy.deepcopy(model), BATCH), expected)


def test_a_compiled_step_is_one_graph(tmp_path: Path) -> None:
    # PEFT's own function for it sent the compiler into an endless recursion.
    model = quantized("llama", tmp_path)
    expected = gradients(copy.deepcopy(model), BATCH)["loss"]
    sparsify(model, replace(CONFIG, estimator="magnitude", svd_rank=None, qk_sparsity=0.5))
    sparse = model(**BATCH).loss
    torch._dynamo.reset()
    loss = torch.compile(model, backend="eager", fullgraph=True)(**BATCH).loss
    loss.backward()
    torch.testing.assert_close(loss, sparse)
    assert not torch.allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("left_out", ["down_proj", "up_proj"])
def test_one_map_of_a_block_left_plain(dtype: torch.dtype, left_out: str, tmp_path: Path) -> None:
    # The block then gave float32 back, as its other maps compute in.
    torch.manual_seed(0)
    auto = transformers.AutoModelForSequenceClassification
    auto.from_config(tiny_config("llama")).save_pretrained(tmp_path)
    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True, llm_int8_skip_modules=["score", left_out]
    )
    model = auto.from_pretrained(tmp_path, dtype=dtype, quantization_config=how)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"])
    model = get_peft_model(model, config).train()
    sparsify(model, replace(CONFIG, estimator="magnitude", svd_rank=None))
    model(**BATCH).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_map_whose_parameter_lost_its_state(tmp_path: Path) -> None:
    # As after torch.load, or in a sharded model: bitsandbytes takes it from the map then.
    model = quantized("llama", tmp_path)
    expected = dequantized(find_blocks(model)[0].lin1.base)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(dequantized(find_blocks(loaded)[0].lin1.base), expected)
    sparsify(loaded, CONFIG)
    loaded(**BATCH).loss.backward()


def test_maps_stay_trainable_while_any_holds_them(tmp_path: Path) -> None:
    # The first to be taken back let them be packed, and gradients were gone without an error.
    model = quantized("llama", tmp_path)
    maps = [module for module in model.modules() if is_quantized(module)]
    for module in maps:
        module.support_avx512bf16_for_cpu = True
    first, second = keep_trainable(model), keep_trainable(model)
    give_back(first)
    assert not any(module.support_avx512bf16_for_cpu for module in maps)
    give_back(second)
    assert all(module.support_avx512bf16_for_cpu for module in maps)
    assert not any("_sparselora" in name for module in maps for name in vars(module))


@pytest.mark.parametrize("ffn", [False, True])
def test_a_kept_slice_follows_a_merge_and_its_inverse(ffn: bool, tmp_path: Path) -> None:
    # Taking an adapter out again quantizes anew: the names are those of before, the weights are not.
    model = quantized("llama", tmp_path, ffn=ffn)
    settings: dict[str, Any] = {"ffn_sparsity": 0.6} if ffn else {"qk_sparsity": 0.5}
    handle = sparsify(model, plain(estimator="magnitude", **{"ffn_sparsity": 0.0} | settings))
    gradients(model, BATCH)
    model.merge_adapter()
    model.unmerge_adapter()
    got = gradients(model, BATCH)
    for ffn_block in handle.sparse_blocks.values():
        ffn_block.choice.gathered.clear()
    for attention in handle.sparse_attention.values():
        attention.choice.gathered.clear()
    assert_all_close(got, gradients(model, BATCH), **NEAR)


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_a_map_is_computed_from_its_bits_once_a_step(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantized(model_type, tmp_path)
    sparsify(model, CONFIG)
    seen = []
    original = linear_layer.dequantized
    monkeypatch.setattr(
        linear_layer, "dequantized", lambda base: seen.append(base) or original(base)
    )
    gradients(model, BATCH)
    maps = 2 if model_type == "phi3" else 3  # its gate and lin1 are one
    assert len(seen) == len(set(map(id, seen))) == 3 * maps
