"""Every method of the installed PEFT beside sparse blocks and a faster path, or refused by name."""

import copy
import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from sparselora import accelerate, sparsify
from sparselora.errors import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_blocks
from tests.conftest import plain, tiny_batch, tiny_config
from tests.sparse.blocks.test_ffn import assert_all_close
from tests.sparse.test_peft_operations import chosen_by, mask

METHODS = sorted(getattr(each, "name", str(each)) for each in PEFT_TYPE_TO_CONFIG_MAPPING)
MODELS = [("bert", "SEQ_CLS"), ("llama", "CAUSAL_LM"), ("llama", "SEQ_CLS"), ("gpt2", "CAUSAL_LM")]
CONFIG = plain(estimator="svd", svd_rank=3, ffn_sparsity=0.6)
SPECIAL: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 100, "init_r": 4, "target_r": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": None},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 4},
    "CPT": {"cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]},
    "FOURIERFT": {"n_frequency": 10},
    "LN_TUNING": {"target_modules": ["attention.output.LayerNorm", "input_layernorm", "ln_1"]},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2, "num_ranks": 1},
    "OFT": {"oft_block_size": 4, "r": 0},
    "POLY": {"n_tasks": 2, "n_skills": 2, "r": 2},
    "PSOFT": {"r": 4},
    "P_TUNING": {"encoder_hidden_size": 16},
    "RANDLORA": {"r": 2},
    "ROAD": {"group_size": 4},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {
        "token_indices": [5, 6, 7],
        "target_modules": ["word_embeddings", "embed_tokens", "wte"],
    },
    "VBLORA": {"num_vectors": 8, "vector_length": 4},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 10},
}
FLOAT32 = ("ADAMSS", "CPT")
"""Methods that hold float32 tensors whatever the model's type is."""
ORTHOGONAL = ("OFT", "BOFT", "HRA", "PSOFT")
KNOWN_TO_FAIL_ALONE = {"SHADOW", "XLORA"}
"""What PEFT itself cannot build or train on models so small."""
if find_spec("sklearn") is None:  # which PEFT asks for there, and nothing here needs
    KNOWN_TO_FAIL_ALONE.add("ADAMSS")


def with_method(method: str, model_type: str, task: str, where: str) -> Any:
    """A tiny model with that method, none of whose parameters is where its start makes it do nothing."""
    kind = next(
        config
        for each, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if getattr(each, "name", str(each)) == method
    )
    row = ARCHITECTURES[model_type]
    ffn = sorted({row.lin1, row.lin2})
    given = {
        "task_type": task,
        "target_modules": sorted(set(row.attention)) if where == "attention" else ffn,
        "feedforward_modules": [] if where == "attention" else [row.lin2],
        "num_virtual_tokens": 3,
    } | SPECIAL.get(method, {})
    names = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in given.items() if name in names and value is not None}
    torch.manual_seed(0)
    sizes = {} if model_type == "gpt2" else {"hidden_size": 32, "intermediate_size": 48}
    automatic = {
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
        "CAUSAL_LM": transformers.AutoModelForCausalLM,
    }[task]
    base = automatic.from_config(tiny_config(model_type, **sizes))
    try:
        model = peft.get_peft_model(base, kind(**given)).train()
        for parameter in model.parameters():
            if parameter.requires_grad and method not in ORTHOGONAL:
                with torch.no_grad():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        step(copy.deepcopy(model), task, method)
    except Exception as error:
        pytest.skip(f"PEFT has no {method} for this: {str(error)[:80]}")
    return model if method in FLOAT32 else model.double()


def batch_of(task: str, method: str) -> dict[str, Tensor]:
    batch = tiny_batch()
    if task == "CAUSAL_LM":
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        batch["labels"][:, :3] = -100
    if method in ("MULTITASK_PROMPT_TUNING", "POLY"):
        batch["task_ids"] = torch.arange(4) % 2
    if method == "CPT":
        batch["input_type_mask"] = torch.full_like(batch["input_ids"], 4)
    return batch


def step(model: nn.Module, task: str, method: str) -> dict[str, Tensor]:
    """Loss, logits and every gradient of one step."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    # PVeRA draws for each token, and a last layer for the first token alone has fewer.
    whole = {"output_hidden_states": True} if method == "PVERA" else {}
    output: Any = model(**batch_of(task, method), **whole)
    output.loss.backward()
    found = {"loss": output.loss.detach(), "logits": output.logits.detach()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            found[name] = parameter.grad.clone()
    return found


NEAR = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("where", ["attention", "ffn"])
@pytest.mark.parametrize(("model_type", "task"), MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_masked_dense_model_or_is_refused_by_name(
    method: str, model_type: str, task: str, where: str
) -> None:
    stock = with_method(method, model_type, task, where)
    expected = step(copy.deepcopy(stock), task, method)
    fast = copy.deepcopy(stock)
    acceleration = accelerate(fast)
    assert_all_close(step(fast, task, method), expected, **NEAR)
    acceleration.remove()
    assert_all_close(step(fast, task, method), expected, **NEAR)

    model = copy.deepcopy(stock)
    classes = [type(module) for module in model.modules()]
    targets = SPECIAL.get(method, {}).get("target_modules", ())
    on_the_ffn = where == "ffn" and method != "LORA" and targets == ()
    if on_the_ffn and any(
        isinstance(block.lin2.module, BaseTunerLayer)
        or isinstance(block.lin1.module, BaseTunerLayer)
        for block in find_blocks(model)
    ):
        with pytest.raises(UserError, match=rf"^[^\n]*\({method}\)[^\n]*$"):
            sparsify(model, CONFIG)
        assert classes == [type(module) for module in model.modules()]
        return
    handle = sparsify(model, CONFIG)
    got = step(model, task, method)
    chosen = chosen_by(handle)
    assert all(ffn.calls == 1 for ffn in handle.sparse_blocks.values())
    assert_all_close(got, step(mask(copy.deepcopy(stock), chosen), task, method), **NEAR)
    model.eval(), stock.eval()
    for each in (model, stock):
        torch.manual_seed(5)
        each.logits_seen = each(**batch_of(task, method)).logits
    torch.testing.assert_close(model.logits_seen, stock.logits_seen, **NEAR)
    handle.remove()
    assert_all_close(step(model.train(), task, method), expected, **NEAR)


@pytest.mark.parametrize(
    ("model_type", "task"), [each for each in MODELS if each[1] == "CAUSAL_LM"]
)
@pytest.mark.parametrize("method", METHODS)
def test_context_alone_takes_labels_as_the_method_has_them(
    method: str, model_type: str, task: str
) -> None:
    """Virtual tokens come before the labels' tokens, and some methods pass the head's hooks by."""
    model = with_method(method, model_type, task, "attention")
    handle = sparsify(model, dataclasses.replace(CONFIG, tokens="context"))
    got = step(model, task, method)
    assert all(torch.isfinite(tensor).all() for tensor in got.values())
    labels = batch_of(task, method)["labels"]
    prompts = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
    extra = 3 if method in prompts else 0
    split = handle.state.call.split
    assert split is not None
    assert split.order.numel() == labels.shape[0] * (labels.shape[1] + extra)


def test_all_methods_are_tried() -> None:
    """A method that no tiny model takes would leave the tests above without a word."""
    tried = set()
    for method in METHODS:
        for model_type, task in MODELS:
            try:
                with_method(method, model_type, task, "attention")
            except pytest.skip.Exception:
                continue
            tried.add(method)
            break
    assert set(METHODS) - tried <= KNOWN_TO_FAIL_ALONE


def test_a_mixed_model() -> None:
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    model = peft.get_peft_model(
        base,
        peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False),
        mixed=True,
    )
    model.add_adapter("hada", peft.LoHaConfig(r=2, target_modules=["value"], init_weights=False))
    model.set_adapter(["default", "hada"])
    model = model.train().double()
    stock = copy.deepcopy(model)
    handle = sparsify(model, CONFIG)
    got = step(model, "SEQ_CLS", "LORA")
    expected = step(mask(copy.deepcopy(stock), chosen_by(handle)), "SEQ_CLS", "LORA")
    assert_all_close(got, expected)
    assert any("hada" in name for name in got)


@pytest.mark.parametrize("variant", ["use_rslora", "pissa", "olora", "eva", "orthogonal"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_ways_to_begin_lora(model_type: str, variant: str, tmp_path: Path) -> None:
    """They are plain LoRA on other weights."""
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config(model_type))
    row = ARCHITECTURES[model_type]
    given = {variant: True} if variant.startswith("use") else {"init_lora_weights": variant}
    targets = sorted({row.lin1, row.lin2, *row.attention})
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=targets, **given))
    model = model.train().double()
    stock = copy.deepcopy(model)
    handle = sparsify(model, CONFIG)
    got = step(model, "SEQ_CLS", "LORA")
    expected = step(mask(stock, chosen_by(handle)), "SEQ_CLS", "LORA")
    assert_all_close(got, expected)


def test_attention_under_an_adaption_prompt_is_refused_by_name() -> None:
    model = with_method("ADAPTION_PROMPT", "llama", "CAUSAL_LM", "attention")
    classes = [type(module) for module in model.modules()]
    with pytest.raises(
        UserError, match=r"q_proj is not there.*AdaptedAttention \(ADAPTION_PROMPT\)"
    ):
        sparsify(model, dataclasses.replace(CONFIG, qk_sparsity=0.5))
    assert classes == [type(module) for module in model.modules()]


@pytest.mark.parametrize("tokens", ["all", "context"])
@pytest.mark.parametrize(
    "method", ["ADAPTION_PROMPT", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "IA3", "ADALORA"]
)
def test_a_calibration_leaves_out_what_the_method_adds(method: str, tokens: str) -> None:
    model = with_method(method, "llama", "CAUSAL_LM", "attention")
    config = plain(
        estimator="static", compensation="mean", ffn_sparsity=0.6, tokens=tokens, svd_rank=3
    )
    stock = copy.deepcopy(model)
    handle = sparsify(model, config, calibration=batch_of("CAUSAL_LM", method))
    got = step(model, "CAUSAL_LM", method)
    assert torch.isfinite(got["loss"])
    assert all(ffn.calls == 1 for ffn in handle.sparse_blocks.values())
    handle.remove()
    assert_all_close(step(model, "CAUSAL_LM", method), step(stock, "CAUSAL_LM", method), **NEAR)


@pytest.mark.parametrize("saved", ["attention.output.dense", "intermediate.dense", "output.dense"])
def test_modules_to_save_of_a_block_are_refused_or_trained(saved: str) -> None:
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    given = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    model = peft.get_peft_model(base, given).train().double()
    handle = sparsify(model, CONFIG)
    stock = copy.deepcopy(model)
    model.add_adapter("two", peft.LoraConfig(target_modules=["query"], modules_to_save=[saved]))
    model.set_adapter("two")
    if saved.startswith("attention"):
        model(**tiny_batch())
    else:
        with pytest.raises(UserError, match=r"ModulesToSaveWrapper.*changed after sparsify"):
            model(**tiny_batch())
    with handle.dense():
        assert torch.isfinite(model(**tiny_batch()).loss)
    assert torch.isfinite(stock(**tiny_batch()).loss)
