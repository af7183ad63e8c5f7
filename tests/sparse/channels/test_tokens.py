"""Token splitting, against a dense model that masks left-out channels for context tokens alone."""

import copy
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from sparselora import UserError, sparsify
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.tokens import IGNORED, TokenSplit
from sparselora.sparse.ops.rows import permute
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, gradients

DECODERS = [name for name, row in ARCHITECTURES.items() if row.head_on_every_token]
CONFIG = plain(svd_rank=3, ffn_sparsity=0.6, tokens="context")
FLOAT32_LOSS = {"rtol": 1e-5, "atol": 1e-6}
"""A language model's loss is of float32 logits, whatever the model's type."""


def tiny_decoder(model_type: str, **lora: Any) -> nn.Module:
    """A seeded tiny language model with LoRA on its attention."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(model_type))
    targets = sorted(set(ARCHITECTURES[model_type].attention))
    config: dict[str, Any] = {"r": 4, "target_modules": targets, "init_lora_weights": False}
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config | lora)).train()


def completions(side: str = "right") -> dict[str, Tensor]:
    """Four rows of 5 to 9 tokens, of which the last one to three are the completion."""
    batch = tiny_batch()
    lengths = batch["attention_mask"].sum(1)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for row, length in enumerate(lengths.tolist()):
        start = length - 1 - row % 3
        labels[row, start:length] = batch["input_ids"][row, start:length]
    if side == "left":
        for row, length in enumerate(lengths.tolist()):
            for tensor in (labels, *batch.values()):
                if tensor.dim() == 2:
                    tensor[row] = tensor[row].roll(tensor.shape[1] - length)
    return batch | {"labels": labels}


def dense_tokens(batch: dict[str, Tensor], sinks: int = 0) -> Tensor:
    """(B, T), as the definition says, a token at a time."""
    mask, labels = batch["attention_mask"], batch["labels"]
    dense = torch.zeros_like(mask, dtype=torch.bool)
    for row in range(len(mask)):
        seen = 0
        for place in range(mask.shape[1]):
            if not mask[row, place]:
                continue
            says = place + 1 < mask.shape[1] and labels[row, place + 1] != IGNORED
            dense[row, place] = labels[row, place] != IGNORED or says or seen < sinks
            seen += 1
    return dense


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_equals_the_dense_model_with_context_masked(model_type: str, side: str) -> None:
    model = tiny_decoder(model_type).double()
    reference = copy.deepcopy(model)
    batch = completions(side)
    handle = sparsify(model, CONFIG)
    got = gradients(model, batch)
    dense = dense_tokens(batch)
    assert 0 < dense.sum() < batch["attention_mask"].sum()
    for block in find_blocks(reference):
        keep = torch.zeros(37, dtype=torch.bool)
        keep[handle.sparse_blocks[block.name].chosen] = True
        assert keep.sum() == 15
        mask = (dense[..., None] | keep).double()

        def masked(_: nn.Module, args: tuple[Tensor], mask: Tensor = mask) -> tuple[Tensor]:
            return (args[0] * mask.view(args[0].shape),)

        block.lin2.module.register_forward_pre_hook(masked)
    assert_all_close(got, gradients(reference, batch), **FLOAT32_LOSS)
    handle.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_channels_are_chosen_by_context_tokens_alone() -> None:
    choices = []
    for last in (7, 11):
        batch = completions()
        batch["input_ids"][0, -1] = last  # a completion's own token, which nothing comes after
        model = tiny_decoder("llama")
        handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6, tokens="context"))
        model(**batch)
        choices.append([ffn.chosen.tolist() for ffn in handle.sparse_blocks.values()])
    assert choices[0] == choices[1]


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2", "opt"])
def test_lora_on_the_ffn_keeps_its_adapters_for_output_tokens(model_type: str) -> None:
    row = ARCHITECTURES[model_type]
    maps = sorted({row.lin1, row.lin2, row.gate or row.lin1})
    model = tiny_decoder(model_type, target_modules=[name.split(".")[-1] for name in maps]).double()
    expected = gradients(copy.deepcopy(model), completions())
    handle = sparsify(model, CONFIG)
    for ffn in handle.sparse_blocks.values():
        assert ffn.block.has_adapters
        ffn.kept = ffn.block.intermediate_size
    assert_all_close(gradients(model, completions()), expected, **FLOAT32_LOSS)


def test_a_batch_that_is_output_alone_is_dense() -> None:
    model = tiny_decoder("llama").double()
    batch = tiny_batch(padded=False)
    batch["labels"] = batch["input_ids"].clone()
    expected = gradients(copy.deepcopy(model), batch)
    handle = sparsify(model, CONFIG)
    with pytest.warns(UserWarning, match="every token of the first batch has a label"):
        assert_all_close(gradients(model, batch), expected, **FLOAT32_LOSS)
    assert handle.report()[0].realised_sparsity == 0.0


def test_bf16_under_autocast_stays_near_float32() -> None:
    model = tiny_decoder("llama")
    sparsify(model, CONFIG)
    expected = model(**completions()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(**completions()).loss
    got.backward()
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)


def test_labels_of_a_token_each_are_needed() -> None:
    batch = completions()
    model = tiny_decoder("llama")
    sparsify(model, CONFIG)
    labels = batch.pop("labels")
    with pytest.raises(UserError, match="tokens=context"):
        model(**batch)
    model(**batch, labels=labels)
    # Labels of the call before must not serve the next one.
    with pytest.raises(UserError, match="tokens=context"):
        model(**batch)
    model.eval()(**batch)
    classifier = tiny_model("llama")
    sparsify(classifier, CONFIG)
    with pytest.raises(UserError, match="tokens=context"):
        classifier(**tiny_batch())


def test_a_packed_row_has_sinks_at_the_start_of_each_sequence() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    labels = torch.full((1, 7), IGNORED)
    split = TokenSplit.of(labels, None, sink_tokens=2, position_ids=positions)
    assert split.scored.tolist() == [[False, False, True, True, False, False, True]]
    assert split.context == 3


@settings(deadline=None)
@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 9),
    sinks=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_split_is_a_permutation_with_context_first(
    rows: int, length: int, sinks: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(rows, length, generator=generator) < 0.8).long()
    labels = torch.where(
        (torch.rand(rows, length, generator=generator) < 0.3) & (mask != 0), 5, IGNORED
    )
    split = TokenSplit.of(labels, mask, sinks)
    dense = dense_tokens({"attention_mask": mask, "labels": labels}, sinks)
    assert torch.equal(split.scored, (mask != 0) & ~dense)
    flat = dense.reshape(-1)
    assert not flat[split.order[: split.context]].any()
    assert flat[split.order[split.context :]].all()
    x = torch.randn(rows * length, 3, dtype=torch.float64, requires_grad=True)
    back = permute(permute(x, split.order, split.inverse), split.inverse, split.order)
    assert torch.equal(back, x)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    (permute(x, split.order, split.inverse) * weights).sum().backward()
    assert torch.equal(x.grad, weights[split.inverse])


@pytest.mark.filterwarnings("ignore:tokens=context")
def test_a_batch_without_context_chooses_with_the_other_ranks() -> None:
    """It made none of the reductions that ranks with context in their batches wait for."""
    model = tiny_decoder("llama")
    handle = sparsify(model, CONFIG)
    batch = completions()
    model(
        **batch
        | {"labels": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"])}
    )
    assert handle.state.split is not None
    assert handle.state.split.context == 0
    assert all(ffn.chosen is not None for ffn in handle.sparse_blocks.values())


@pytest.mark.filterwarnings("ignore:tokens=context")
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("part", ["sparse_blocks", "sparse_attention"])
def test_what_a_batch_without_context_chose_serves_no_other(part: str, padding: int) -> None:
    """Attention kept it for `estimator_every` calls, where the FFN did not; both did beside padding."""
    model = tiny_decoder("llama")
    handle = sparsify(
        model,
        plain(svd_rank=3, ffn_sparsity=0.6, qk_sparsity=0.5, tokens="context", estimator_every=4),
    )
    batch = completions()
    alone = {
        "labels": batch["input_ids"].clone(),
        "attention_mask": torch.ones_like(batch["input_ids"]),
    }
    if padding:
        alone["labels"][0, -padding:] = IGNORED
        alone["attention_mask"][0, -padding:] = 0
    chosen = []
    for each in (batch | alone, batch, batch | alone):
        model(**each)
        chosen.append(getattr(handle, part)["layer.0"].chosen)
    assert chosen[0] is not chosen[1]
    assert chosen[1] is chosen[2]
