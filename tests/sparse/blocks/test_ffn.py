"""The sparse model against a dense one whose left-out channels are masked to zero."""

import copy
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

from sparselora import sparsify
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_blocks
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits, loss, the gradient of every trained parameter, and that of the input embeddings."""
    model.zero_grad(set_to_none=True)
    batch = dict(batch)
    embedding: Any = model.get_input_embeddings()
    embeds = embedding(batch.pop("input_ids")).detach().requires_grad_()
    output: Any = model(inputs_embeds=embeds, **batch)
    output.loss.backward()
    result = {"logits": output.logits.detach(), "loss": output.loss.detach(), "input": embeds.grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            result[name] = parameter.grad.clone()
    return result


def masked_reference(model: nn.Module, chosen: dict[str, Tensor]) -> nn.Module:
    """A dense copy in which lin2 sees nothing of the channels that were left out."""
    reference = copy.deepcopy(model)
    for block in find_blocks(reference):
        if block.name in chosen:
            keep = torch.zeros(block.intermediate_size, dtype=torch.bool)
            keep[chosen[block.name]] = True
            block.lin2.weight.data[:, ~keep] = 0
    return reference


def assert_all_close(
    got: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float
) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(
            tensor, expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


def assert_as_near(
    got: dict[str, Tensor], other: dict[str, Tensor], exact: dict[str, Tensor]
) -> None:
    """Each tensor about as near to the exact one as the other of the same precision is.

    By norms: which single element a rounding falls on differs from one processor to the next.
    """
    for name, tensor in exact.items():
        scale = tensor.norm() + 1e-6
        ours = (got[name].float() - tensor).norm() / scale
        theirs = (other[name].float() - tensor).norm() / scale
        assert ours <= 3 * theirs + 0.02, name


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_equals_the_masked_dense_model(model_type: str, padded: bool, rows: int) -> None:
    # Earlier implementations cut the gradient to the input at the gather, and dropped the bias.
    model = tiny_model(model_type).double()
    for block in find_blocks(model):
        for linear in (block.lin1, block.lin2, block.gate):
            if linear is not None and linear.bias is not None:
                nn.init.normal_(linear.bias)
    pristine = copy.deepcopy(model)
    batch = tiny_batch(rows, padded=padded)
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
    got = gradients(model, batch)
    chosen = {name: ffn.chosen for name, ffn in handle._sparse.items()}
    assert all(indices.numel() == 15 for indices in chosen.values())
    assert_all_close(got, gradients(masked_reference(pristine, chosen), batch))


def with_lora_on_the_ffn(model_type: str, **lora: Any) -> nn.Module:
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config(model_type))
    row = ARCHITECTURES[model_type]
    maps = {row.lin1, row.lin2, row.gate or row.lin1, row.attention[0]}
    settings: dict[str, Any] = {"r": 4, "init_lora_weights": False, "task_type": "SEQ_CLS"} | lora
    targets = [f".*{name}".replace(".", "[.]") for name in maps]
    return peft.get_peft_model(
        base,
        peft.LoraConfig(target_modules=f"({'|'.join(targets)})".replace("[.]*", ".*"), **settings),
    ).train()


@pytest.mark.parametrize(
    "model_type", ["bert", "distilbert", "llama", "gpt2", "phi3", "modernbert"]
)
def test_lora_on_the_ffn_equals_the_masked_dense_model(model_type: str) -> None:
    """A channel left out is zero to lin2 and to its adapter: a mask between activation and lin2."""
    model = with_lora_on_the_ffn(model_type).double()
    reference = copy.deepcopy(model)
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
    assert all(ffn.block.has_adapters for ffn in handle._sparse.values())
    got = gradients(model, tiny_batch())
    for block in find_blocks(reference):
        keep = torch.zeros(37, dtype=torch.float64)
        keep[handle._sparse[block.name].chosen] = 1
        block.lin2.module.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep,))
    assert_all_close(got, gradients(reference, tiny_batch()))
    handle.remove()
    for block in find_blocks(reference):
        block.lin2.module._forward_pre_hooks.clear()
    assert_all_close(gradients(model, tiny_batch()), gradients(reference, tiny_batch()))


def test_lora_on_the_ffn_keeps_its_dropout_and_bf16() -> None:
    model = with_lora_on_the_ffn("bert", lora_dropout=0.5)
    sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6, estimator_tokens=None))
    torch.manual_seed(0)
    first = model(**tiny_batch()).logits
    assert not torch.equal(model(**tiny_batch()).logits, first)
    torch.manual_seed(0)
    assert torch.equal(model(**tiny_batch()).logits, first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients(model, tiny_batch())


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_channel_kept_equals_dense(model_type: str) -> None:
    model = tiny_model(model_type).double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
    for ffn in handle._sparse.values():
        ffn.kept = ffn.block.intermediate_size
    assert_all_close(gradients(model, tiny_batch()), expected)


def test_gradient_checkpointing_takes_the_same_channels() -> None:
    batch = tiny_batch()
    results = []
    for checkpointing in (False, True):
        model = tiny_model("bert").double()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        # `random` draws anew at each call: a recomputation that chose again would show.
        sparsify(model, plain(estimator="random", ffn_sparsity=0.5))
        results.append(gradients(model, batch))
    assert_all_close(results[1], results[0])


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama", "gpt2"])
def test_bf16_under_autocast_stays_near_float32(model_type: str) -> None:
    model = tiny_model(model_type)
    pristine = copy.deepcopy(model)
    batch = tiny_batch()
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(model, batch)
    chosen = {name: ffn.chosen for name, ffn in handle._sparse.items()}
    reference = masked_reference(pristine, chosen)
    expected = gradients(reference, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = gradients(reference, batch)
    assert_as_near(got, dense, expected)


def test_non_contiguous_input() -> None:
    model = tiny_model("distilbert").double()
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
    ffn = handle._sparse["layer.0"]
    x = torch.randn(5, 24, 3, dtype=torch.float64).permute(2, 0, 1)
    assert not x.is_contiguous()
    torch.testing.assert_close(ffn.forward(x), ffn.forward(x.contiguous()))


def test_a_kept_choice_is_gathered_once_and_chosen_anew_when_due() -> None:
    model = tiny_model("bert", dropout=0.1)
    config = plain(estimator="random", ffn_sparsity=0.6, estimator_every=3)
    handle = sparsify(model, config)
    ffn = handle._sparse["layer.0"]
    choices, slices = [], []
    for _ in range(7):
        model(**tiny_batch())
        choices.append(ffn.chosen.tolist())
        slices.append(ffn.choice.gathered["ffn"])
    assert choices[0] == choices[1] == choices[2] != choices[3]
    assert choices[3] == choices[4] == choices[5] != choices[6]
    assert slices[0] is slices[2]
    assert slices[2] is not slices[3]
