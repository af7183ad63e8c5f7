"""The faster path around the FFN against PEFT's and torch's own, output and every gradient."""

import copy
import math
import pickle

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparselora import sparsify
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.acceleration import lora
from sparselora.sparse.acceleration.dropout import FastDropout
from sparselora.sparse.acceleration.lora import FastLoraLinear
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.ops import dropout
from sparselora.sparse.ops import dropout_attention as attention
from sparselora.sparse.ops.dropout import keep_mask
from sparselora.sparse.ops.dropout_attention import DropoutAttentionFunction
from sparselora.sparse.ops.lora import LoRALinearFunction
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, assert_as_near, gradients

CPU = torch.device("cpu")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_equals_peft_where_nothing_is_dropped(model_type: str) -> None:
    model = tiny_model(model_type).double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    accelerate(model)
    fast = [module for module in model.modules() if isinstance(module, FastLoraLinear)]
    assert fast
    assert_all_close(gradients(model, tiny_batch()), expected)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama"])
def test_remove_is_an_exact_inverse(model_type: str) -> None:
    model = tiny_model(model_type, dropout=0.2)
    modules = dict(model.named_modules())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    implementation = model.config._attn_implementation
    acceleration = accelerate(model)
    assert any(isinstance(module, FastDropout) for module in model.modules())
    assert model.state_dict().keys() == state.keys()
    model(**tiny_batch()).loss.backward()
    model.eval()
    acceleration.remove()
    after = dict(model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == implementation
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    acceleration.remove()


def test_peft_sees_its_own_layers() -> None:
    model = tiny_model("bert")
    with model.disable_adapter():
        bare = model(**tiny_batch()).logits
    accelerate(model)
    assert not torch.allclose(model(**tiny_batch()).logits, bare)
    with model.disable_adapter():
        torch.testing.assert_close(model(**tiny_batch()).logits, bare)
    expected = model.eval()(**tiny_batch()).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**tiny_batch()).logits, expected, atol=1e-5, rtol=1e-4)


def test_what_is_not_plain_lora_goes_pefts_way(monkeypatch: pytest.MonkeyPatch) -> None:
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    model = peft.get_peft_model(
        base,
        peft.LoraConfig(target_modules=["attention.self.query"], use_dora=True, r=4),
    )
    expected = gradients(copy.deepcopy(model.train()), tiny_batch())
    accelerate(model)
    monkeypatch.setattr(lora, "LoRALinearFunction", None)
    assert_all_close(gradients(model, tiny_batch()), expected)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_rate_of_the_mask(rate: float) -> None:
    torch.manual_seed(0)
    count = 2_000_003
    keep = keep_mask((count,), rate, CPU)
    spread = math.sqrt(rate * (1 - rate) / count)
    assert abs(float((~keep).double().mean()) - rate) < 5 * spread + 2**-17
    # Neighbours, and the four that share a word, are independent.
    for lag in (1, 2, 3, 4):
        both = float((~keep[:-lag] & ~keep[lag:]).double().mean())
        assert abs(both - rate**2) < 6 * math.sqrt(rate**2 * (1 - rate**2) / count) + 1e-4


def test_masks_follow_torchs_seed() -> None:
    torch.manual_seed(3)
    first, second = keep_mask((7, 5), 0.5, CPU), keep_mask((7, 5), 0.5, CPU)
    torch.manual_seed(3)
    assert torch.equal(keep_mask((7, 5), 0.5, CPU), first)
    assert not torch.equal(first, second)


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


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    size_in=st.integers(1, 8),
    size_out=st.integers(1, 8),
    rank=st.integers(1, 4),
    rate=st.sampled_from([0.0, 0.3]),
    has_bias=st.booleans(),
)
def test_lora_function_against_autograd(
    rows: int, size_in: int, size_out: int, rank: int, rate: float, has_bias: bool
) -> None:
    torch.manual_seed(rows * 100 + size_in)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    x, a, b = (
        draw(*s).requires_grad_() for s in ((rows, size_in), (rank, size_in), (size_out, rank))
    )
    weight = draw(size_out, size_in)
    bias = draw(size_out).requires_grad_() if has_bias else None
    inputs = [tensor for tensor in (x, a, b, bias) if tensor is not None]
    torch.manual_seed(5)
    got = LoRALinearFunction.apply(x, weight, bias, a, b, 1.7, rate)
    torch.manual_seed(5)
    mask = keep_mask(x.shape, rate, CPU).double() / (1 - rate) if rate else torch.ones(())
    expected = nn.functional.linear(x, weight, bias) + 1.7 * (x * mask) @ a.T @ b.T
    torch.testing.assert_close(got, expected)
    upstream = draw(rows, size_out)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("length", [1, 7])
def test_attention_function_against_autograd(length: int, kind: str) -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, length, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    mask = None
    if kind != "none":
        mask = torch.ones(2, 1, 1, length, dtype=torch.bool)
        mask[1, :, :, length // 2 + 1 :] = False
    added = None if mask is None else torch.zeros(mask.shape).double().masked_fill(~mask, -1e30)
    given_mask = added if kind == "added" else mask
    torch.manual_seed(1)
    got = DropoutAttentionFunction.apply(query, key, value, given_mask, 0.3, 0.4)
    torch.manual_seed(1)
    keep = keep_mask((6, length, length), 0.3, CPU).view(2, 3, length, length).double() / 0.7
    scores = 0.4 * query @ key.transpose(2, 3)
    weights = torch.softmax(scores if added is None else scores + added, -1)
    expected = (weights * keep) @ value
    torch.testing.assert_close(got, expected)
    upstream = torch.randn_like(got)
    for ours, theirs in zip(
        torch.autograd.grad(got, (query, key, value), upstream),
        torch.autograd.grad(expected, (query, key, value), upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


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


def test_checkpointing_draws_the_same_masks_again() -> None:
    results = []
    for checkpointing in (False, True):
        model = tiny_model("bert", dropout=0.2).double()
        accelerate(model)
        sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
        # Who looks gets the whole last layer, as under checkpointing.
        model.get_base_model().bert.encoder.register_forward_hook(lambda *_: None)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(4)
        results.append(gradients(model, tiny_batch()))
    assert_all_close(results[1], results[0])


def test_bf16_under_autocast() -> None:
    model = tiny_model("distilbert")
    exact = gradients(copy.deepcopy(model), tiny_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock = gradients(copy.deepcopy(model), tiny_batch())
        accelerate(model)
        fast = gradients(model, tiny_batch())
    assert all(tensor.dtype == stock[name].dtype for name, tensor in fast.items())
    assert_as_near(fast, stock, exact)


def test_a_deep_copy_is_accelerated_and_on_its_own() -> None:
    model = tiny_model("bert", dropout=0.1)
    accelerate(model)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.add_(1.0)
    assert any(isinstance(module, FastLoraLinear) for module in clone.modules())
    fast = next(m for m in model.modules() if isinstance(m, FastLoraLinear))
    other = next(m for m in clone.modules() if isinstance(m, FastLoraLinear))
    assert not torch.equal(fast.base_layer.weight, other.base_layer.weight)


def test_an_accelerated_model_is_pickled_whole() -> None:
    model = tiny_model("llama")
    accelerate(model)
    again = pickle.loads(pickle.dumps(model))
    assert [type(module) for module in again.modules()] == [type(m) for m in model.modules()]
    torch.testing.assert_close(again(**tiny_batch()).logits, model(**tiny_batch()).logits)
