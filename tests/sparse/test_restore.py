"""A patch that fails leaves no trace, what is saved meanwhile is the model, `remove` gives all back."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

from sparselora import SparsityConfig, accelerate, sparsify
from sparselora.errors import UserError
from sparselora.sparse import accelerate as accelerate_module
from sparselora.sparse import handle as handle_module
from sparselora.sparse.acceleration.lora import FastLoraLinear
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, gradients

CONFIG = plain(svd_rank=3, ffn_sparsity=0.6, qk_sparsity=0.5, vo_sparsity=0.5)
TYPES = ["bert", "distilbert", "gpt2", "llama", "modernbert"]


def trace(model: nn.Module) -> dict[str, Any]:
    """All that a patch may touch."""
    return {
        "kinds": {name: type(module) for name, module in model.named_modules()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "states": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: [len(value) for key, value in vars(module).items() if key.endswith("_hooks")]
            for name, module in model.named_modules()
        },
        "strides": {name: p.stride() for name, p in model.named_parameters()},
        "values": {
            name: p.detach().clone().double().sum().item() for name, p in model.named_parameters()
        },
        "attention": model.config._attn_implementation,
    }


class BrokenError(RuntimeError):
    pass


def fail(*_: Any, **__: Any) -> Any:
    raise BrokenError


# What a patch calls on its way, in the order that it does.
STEPS = [
    (accelerate_module, "keep_trainable"),
    (accelerate_module, "put_on"),
    (accelerate_module, "_configs"),
    (accelerate_module, "LastLayer"),
    (handle_module, "wrap_ffn"),
    (handle_module, "wrap_attention"),
    (handle_module, "get_called"),
    (handle_module, "FollowModel"),
    (handle_module, "NoteEnd"),
]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_patch_that_fails_leaves_the_model_as_it_was(
    model_type: str, step: Any, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(model_type)
    before, expected = trace(model), gradients(model, tiny_batch())
    module, name = step
    right, calls = getattr(module, name), []

    def late(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return right(*args, **kwargs) if len(calls) <= after else fail()

    monkeypatch.setattr(module, name, late)
    ways = [lambda: sparsify(model, CONFIG)]
    if module is accelerate_module:
        ways.append(lambda: accelerate(model))
    for way in ways:
        calls.clear()
        try:
            made = way()
        except BrokenError:
            pass
        else:
            made.remove()  # a step that is called less often than that
        assert trace(model) == before
    monkeypatch.undo()
    assert_all_close(gradients(model, tiny_batch()), expected)
    sparsify(model, CONFIG).remove()
    assert trace(model) == before


@pytest.mark.parametrize(
    "config",
    [
        plain(svd_rank=30),
        plain(estimator="static"),
        plain(layer_sparsity={"layer.9": 0.5}),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(config: SparsityConfig) -> None:
    model = tiny_model("bert")
    before = trace(model)
    with pytest.raises(UserError):
        sparsify(model, config)
    assert trace(model) == before


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_while_sparse_is_the_model(
    model_type: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """safetensors takes contiguous tensors alone, and refused the columns that lie as rows."""
    model = tiny_model(model_type).to(dtype)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sparsify(model, CONFIG if model_type != "phi3" else plain(svd_rank=3, ffn_sparsity=0.6))
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    loaded = load_file(tmp_path / "whole.safetensors")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    save_model(model, str(tmp_path / "model.safetensors"))
    assert load_file(tmp_path / "model.safetensors").keys() <= expected.keys()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt")
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    part = model.get_base_model().base_model
    save_file(part.state_dict(), tmp_path / "part.safetensors")
    # A parameter that is asked for as such is the very one.
    kept = model.state_dict(keep_vars=True)
    assert all(kept[name] is parameter for name, parameter in model.named_parameters())


@pytest.mark.parametrize("model_type", TYPES)
def test_save_pretrained_while_sparse(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    sparsify(model, CONFIG)
    model(**tiny_batch())
    model.save_pretrained(tmp_path / "adapter")
    stock = tiny_model(model_type).eval()
    expected = stock(**tiny_batch()).logits
    again = peft.PeftModel.from_pretrained(
        tiny_model(model_type).unload(), tmp_path / "adapter"
    ).eval()
    torch.testing.assert_close(again(**tiny_batch()).logits, expected)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(loaded.eval()(**tiny_batch()).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", ["bert", "llama"])
@pytest.mark.parametrize("way", [accelerate, lambda model: sparsify(model, CONFIG)])
def test_the_attention_that_the_user_had_comes_back(
    way: Any, model_type: str, implementation: str
) -> None:
    model = tiny_model(model_type)
    model.get_base_model().set_attn_implementation(implementation)
    patch = way(model)
    model(**tiny_batch())
    patch.remove()
    assert model.config._attn_implementation == implementation
    # What is asked for meanwhile stays.
    patch = way(model)
    model.get_base_model().set_attn_implementation("eager")
    patch.remove()
    assert model.config._attn_implementation == "eager"


def two_towers() -> nn.Module:
    tiny = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=tiny | {"vocab_size": 60, "eos_token_id": 2},
        vision_config=tiny | {"image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    return transformers.CLIPModel(config)


def test_each_config_below_keeps_its_own_attention() -> None:
    """Setting the whole model's set those of its parts, and gave all of them one back."""
    model = two_towers()
    model.config.vision_config._attn_implementation = "eager"
    configs = [model.config, model.config.text_config, model.config.vision_config]
    before = [config._attn_implementation for config in configs]
    assert len(set(before)) == 2
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 2]]),
        "pixel_values": torch.randn(1, 3, 8, 8),
        "return_loss": True,
    }
    expected = model(**inputs).loss
    acceleration = accelerate(model)
    assert configs[2]._attn_implementation == "eager"
    torch.testing.assert_close(model(**inputs).loss, expected)
    acceleration.remove()
    assert [config._attn_implementation for config in configs] == before


def other_models() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[str]]]:
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    torch.manual_seed(0)
    bloom = transformers.BloomConfig(hidden_size=16, n_head=2, n_layer=2, vocab_size=60)
    t5 = transformers.T5Config(
        d_model=16,
        d_kv=8,
        d_ff=20,
        num_layers=2,
        num_heads=2,
        vocab_size=60,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    neox = transformers.GPTNeoXConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=60,
    )
    albert = transformers.AlbertConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=60,
        embedding_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
        classifier_dropout_prob=0.0,
    )
    both = {"input_ids": ids, "labels": ids}
    return {
        "bloom": (transformers.BloomForCausalLM(bloom), both, ["query_key_value"]),
        "t5": (transformers.T5ForConditionalGeneration(t5), both, ["q", "v"]),
        "gpt_neox": (transformers.GPTNeoXForCausalLM(neox), both, ["query_key_value"]),
        "albert": (
            transformers.AlbertForSequenceClassification(albert),
            {"input_ids": ids, "labels": torch.tensor([0, 2])},
            ["query", "value"],
        ),
    }


@pytest.mark.parametrize("name", ["bloom", "t5", "gpt_neox", "albert"])
def test_an_architecture_without_a_row_is_accelerated_by_class(name: str) -> None:
    base, batch, targets = other_models()[name]
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    ).train()
    before = trace(model)

    def step() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        output = model(**batch)
        output.loss.backward()
        found = {"loss": output.loss.detach(), "logits": output.logits.detach()}
        return found | {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    expected = step()
    acceleration = accelerate(model)
    assert any(isinstance(module, FastLoraLinear) for module in model.modules())
    assert_all_close(step(), expected, atol=1e-5, rtol=1e-4)
    acceleration.remove()
    assert trace(model) == before
    with pytest.raises(UserError, match=rf"'{name}'; supported are bert"):
        sparsify(model, CONFIG)
    assert trace(model) == before


@pytest.mark.parametrize("way", ["accelerate", "sparsify"])
def test_a_pickled_model_runs_in_a_process_of_its_own(way: str, tmp_path: Path) -> None:
    """Its config named an attention that only a process which had accelerated a model knew."""
    model = tiny_model("bert")
    accelerate(model) if way == "accelerate" else sparsify(model, CONFIG)
    torch.save((model, tiny_batch(), model(**tiny_batch()).logits.detach()), tmp_path / "model.pt")
    code = (
        "import sys, torch; model, batch, expected = torch.load(sys.argv[1], weights_only=False); "
        "torch.testing.assert_close(model(**batch).logits, expected)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
