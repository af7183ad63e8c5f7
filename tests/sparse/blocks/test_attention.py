"""Sparse attention maps, against a dense model whose left-out rows and columns are zero."""

import copy
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from sparselora import UserError, sparsify
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.attention import ROLES, find_attention
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model
from tests.sparse.blocks.test_ffn import assert_all_close, assert_as_near, gradients
from tests.sparse.blocks.test_ffn import masked_reference as masked_ffn
from tests.sparse.channels.test_tokens import (
    DECODERS,
    FLOAT32_LOSS,
    completions,
    dense_tokens,
    tiny_decoder,
)

CONFIG = plain(svd_rank=3, ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.4)
BOTH = plain(svd_rank=3, ffn_sparsity=0.6, qk_sparsity=0.5, vo_sparsity=0.4)


def masked_reference(model: nn.Module, handle: Any) -> nn.Module:
    """A dense copy of a pristine model without what the last sparse call left out; biases stay."""
    reference = copy.deepcopy(model)
    for attention in find_attention(reference):
        sparse = handle.sparse_attention.get(attention.name)
        if sparse is None:
            continue
        for role in ROLES:
            whole = attention.projections[role].weight
            keep = torch.zeros(whole.shape[1 if role == "output" else 0], dtype=torch.bool)
            start = 0 if role == "output" else attention.rows(role).start
            keep[start + getattr(sparse.chosen, role)] = True
            if role == "output":
                whole.data[:, ~keep] = 0
            else:
                rows = attention.rows(role)
                whole.data[rows][~keep[rows]] = 0
    return reference


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_equals_the_masked_dense_model(model_type: str, padded: bool) -> None:
    model = tiny_model(model_type).double()
    for attention in find_attention(model):
        for linear in attention.projections.values():
            if linear.bias is not None:
                nn.init.normal_(linear.bias)
    pristine = copy.deepcopy(model)
    handle = sparsify(model, CONFIG)
    got = gradients(model, tiny_batch(padded=padded))
    chosen = handle.sparse_attention["layer.1"].chosen
    assert 0 < len(chosen.query) < model.get_base_model().config.hidden_size
    assert_all_close(got, gradients(masked_reference(pristine, handle), tiny_batch(padded=padded)))
    dense = gradients(pristine, tiny_batch(padded=padded))
    assert not torch.allclose(got["logits"], dense["logits"])


@pytest.mark.parametrize("projections", [["query", "value"], ["output"], ["key"]])
@pytest.mark.parametrize("model_type", ["bert", "llama", "opt"])
def test_maps_without_an_adapter(model_type: str, projections: list[str]) -> None:
    row = ARCHITECTURES[model_type]
    targets = [path for role, path in zip(ROLES, row.attention, strict=True) if role in projections]
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config(model_type))
    lora = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="SEQ_CLS")
    model = get_peft_model(base, lora).train().double()
    pristine = copy.deepcopy(model)
    batch = tiny_batch()
    handle = sparsify(model, CONFIG)
    got = gradients(model, batch)
    assert_all_close(got, gradients(masked_reference(pristine, handle), batch))


@pytest.mark.parametrize("scope", ["per_head", "all_heads"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_context_alone_with_a_sparse_ffn(model_type: str, scope: str) -> None:
    """Output tokens go through whole maps; context tokens through the masked ones."""
    config = plain(
        svd_rank=3,
        ffn_sparsity=0.0,
        qk_sparsity=0.5,
        vo_sparsity=0.4,
        tokens="context",
        attention_scope=scope,
    )
    model = tiny_decoder(model_type).double()
    pristine = copy.deepcopy(model)
    batch = completions()
    handle = sparsify(model, config)
    got = gradients(model, batch)
    dense = dense_tokens(batch).unsqueeze(-1)
    whole, masked = copy.deepcopy(pristine), masked_reference(pristine, handle)
    for one, other in zip(find_attention(whole), find_attention(masked), strict=True):
        done = set()
        for role in ROLES:
            module = one.projections[role].module
            if id(module) in done:
                continue
            done.add(id(module))

            def mixed(
                _: nn.Module,
                args: tuple[Tensor],
                output: Tensor,
                other: nn.Module = other.projections[role].base,
                own: nn.Module = one.projections[role].base,
            ) -> Tensor:
                # The adapters are the same; the frozen maps differ for context tokens.
                change = other(args[0]) - own(args[0])
                return output + torch.where(dense.view(*args[0].shape[:-1], 1), 0.0, 1.0) * change

            module.register_forward_hook(mixed)
    assert_all_close(got, gradients(whole, batch), **FLOAT32_LOSS)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_remove_is_an_exact_inverse(model_type: str) -> None:
    model = tiny_model(model_type)
    modules = dict(model.named_modules())
    strides = {name: p.stride() for name, p in model.named_parameters()}
    held = {name: set(module.__dict__) for name, module in modules.items()}
    before = model(**tiny_batch()).logits
    handle = sparsify(model, BOTH)
    assert not torch.equal(model(**tiny_batch()).logits, before)
    model.eval()
    torch.testing.assert_close(model(**tiny_batch()).logits, before)
    model.train()
    handle.disable()
    torch.testing.assert_close(model(**tiny_batch()).logits, before)
    handle.remove()
    after = dict(model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert strides == {name: p.stride() for name, p in model.named_parameters()}
    assert held == {name: set(module.__dict__) for name, module in after.items()}
    assert torch.equal(model(**tiny_batch()).logits, before)


def test_peft_still_finds_its_adapters() -> None:
    model = tiny_model("llama").double()
    names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    handle = sparsify(model, CONFIG)
    assert names == [n for n, module in model.named_modules() if isinstance(module, LoraLayer)]
    with model.disable_adapter():
        got = model(**tiny_batch()).logits
    pristine = copy.deepcopy(model)
    for parameter_name, parameter in pristine.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.zero_()
    torch.testing.assert_close(got, pristine(**tiny_batch()).logits)
    assert handle.enabled


def test_padding_does_not_change_the_choice() -> None:
    batch = tiny_batch(rows=3, length=6, padded=False)
    longer = {
        "input_ids": nn.functional.pad(batch["input_ids"], (0, 9)),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 9)),
        "labels": batch["labels"],
    }
    for tokens in (None, 7):
        config = plain(
            svd_rank=3, ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.5, estimator_tokens=tokens
        )
        choices = []
        for inputs in (batch, longer):
            model = tiny_model("bert")
            handle = sparsify(model, config)
            model(**inputs)
            choices.append([[c.tolist() for c in e.chosen] for e in handle._attention.values()])
        assert choices[0] == choices[1]


def test_gradient_checkpointing_takes_the_same_channels() -> None:
    results = []
    for checkpointing in (False, True):
        model = tiny_model("bert").double()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        config = plain(estimator="random", ffn_sparsity=0.5, qk_sparsity=0.5, vo_sparsity=0.5)
        sparsify(model, config)
        results.append(gradients(model, tiny_batch()))
    assert_all_close(results[1], results[0])


@pytest.mark.parametrize("model_type", ["bert", "llama", "gpt2"])
def test_bf16_under_autocast_stays_near_float32(model_type: str) -> None:
    config = plain(estimator="magnitude", ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.5)
    model = tiny_model(model_type)
    pristine = copy.deepcopy(model)
    handle = sparsify(model, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(model, tiny_batch())
    reference = masked_reference(pristine, handle)
    expected = gradients(reference, tiny_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = gradients(reference, tiny_batch())
    assert_as_near(got, dense, expected)


def test_dropout_keeps_its_rate() -> None:
    model = tiny_model("bert", dropout=0.5)
    sparsify(model, CONFIG)
    torch.manual_seed(0)
    first = model(**tiny_batch()).logits
    assert not torch.equal(model(**tiny_batch()).logits, first)


def test_state_goes_on() -> None:
    config = plain(estimator="random", ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.5)
    model = tiny_model("bert").double()
    handle = sparsify(model, config)
    model(**tiny_batch())
    state = copy.deepcopy(handle.state_dict())
    expected = model(**tiny_batch()).logits
    other = tiny_model("bert").double()
    resumed = sparsify(other, config)
    resumed.load_state_dict(state)
    assert torch.equal(other(**tiny_batch()).logits, expected)


@pytest.mark.parametrize("variant", ["use_dora", "use_rslora"])
def test_other_adapters_stay_whole_and_exact(variant: str) -> None:
    """DoRA and rank-stabilised LoRA on the attention, beside a sparse FFN."""
    model = tiny_decoder("llama", **{variant: True}).double()
    pristine = copy.deepcopy(model)
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6))
    got = gradients(model, completions())
    chosen = {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}
    assert_all_close(got, gradients(masked_ffn(pristine, chosen), completions()), **FLOAT32_LOSS)


def test_dora_needs_the_whole_weight() -> None:
    model = tiny_decoder("llama", use_dora=True)
    with pytest.raises(UserError, match="variant of LoRA"):
        sparsify(model, CONFIG)
    assert not any(module._forward_pre_hooks for module in model.modules())
    rank_stabilised = tiny_decoder("llama", use_rslora=True).double()
    pristine = copy.deepcopy(rank_stabilised)
    handle = sparsify(rank_stabilised, CONFIG)
    got = gradients(rank_stabilised, completions())
    assert_all_close(
        got, gradients(masked_reference(pristine, handle), completions()), **FLOAT32_LOSS
    )


def test_replicas_of_data_parallel_are_refused() -> None:
    model = tiny_model("bert")
    sparsify(model, CONFIG)
    query = model.get_submodule("base_model.model.bert.encoder.layer.1.attention.self.query")
    query._is_replica = True
    with pytest.raises(UserError, match="DataParallel"):
        query(torch.randn(1, 3, 24))


def test_only_what_is_sliced_has_to_be_sliceable() -> None:
    base = tiny_model("llama").get_base_model().get_submodule("model")
    config = LoraConfig(r=2, target_modules=["v_proj", "up_proj"], use_dora=True)
    model = get_peft_model(base, config).train()
    strides = {name: p.stride() for name, p in model.named_parameters()}
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.0, qk_sparsity=0.5))
    batch = tiny_batch()
    batch.pop("labels")
    model(**batch).last_hidden_state.sum().backward()
    assert handle.sparse_attention["layer.0"].chosen is not None
    # Nothing of the output is gathered, so it lies as it did.
    assert strides == {name: p.stride() for name, p in model.named_parameters()}


def test_a_rotation_of_some_channels_is_refused() -> None:
    config = tiny_config("phi3")
    config.rope_parameters = {**config.rope_parameters, "partial_rotary_factor": 0.5}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    targets = list(set(ARCHITECTURES["phi3"].attention))
    model = get_peft_model(model, LoraConfig(target_modules=targets)).train()
    with pytest.raises(UserError, match=r"a rotation of 0.5 of each head's channels"):
        sparsify(model, CONFIG)


def test_a_call_without_a_number_chooses_once() -> None:
    """Under torch.compile query and key of `random` kept channels that had nothing in common."""
    model = tiny_model("llama")
    config = plain(estimator="random", ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.5)
    sparse = sparsify(model, config).sparse_attention["layer.0"]
    sparse.state.forward_count = None
    x = torch.randn(2, 3, 24)
    queries = []
    for _ in range(8):
        chosen = []
        for role in ("query", "key", "value"):
            sparse.project(role, x, lambda rows: rows)
            chosen.append(sparse.chosen)
        assert chosen[0] is chosen[1] is chosen[2]
        queries.append(chosen[0].query.tolist())
    assert any(each != queries[0] for each in queries)


@pytest.mark.parametrize("lora", [["query"], ["lin1", "lin2"]])
def test_a_merge_is_seen_by_what_was_gathered_before(lora: list[str]) -> None:
    paths = {"query": "query", "lin1": "intermediate.dense", "lin2": "output.dense"}
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert"))
    targets = [paths[name] for name in lora]
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    config = plain(estimator="magnitude", ffn_sparsity=0.5, qk_sparsity=0.5, vo_sparsity=0.5)
    handle = sparsify(model.train(), config)
    batch = tiny_batch()
    gathered = []
    for change in (lambda: None, model.merge_adapter, model.unmerge_adapter):
        change()
        model(**batch)
        attention, ffn = handle.sparse_attention["layer.1"], handle.sparse_blocks["layer.1"]
        query, lin1 = attention.attention.projections["query"].weight, ffn.block.lin1.weight
        ours = attention.choice.gathered["query"].weight, ffn.choice.gathered["ffn"].lin1
        assert torch.equal(ours[0], query[attention.chosen.query])
        assert torch.equal(ours[1], lin1[ffn.chosen])
        gathered.append(ours)
    changed = 0 if lora == ["query"] else 1
    assert not torch.allclose(gathered[0][changed], gathered[1][changed])
    assert torch.allclose(gathered[0][changed], gathered[2][changed], atol=1e-6)


def test_a_partial_rotation_matters_to_queries_and_keys_alone() -> None:
    config = tiny_config("phi3")
    config.rope_parameters = {**config.rope_parameters, "partial_rotary_factor": 0.5}
    model = transformers.AutoModelForCausalLM.from_config(config)
    targets = list(set(ARCHITECTURES["phi3"].attention))
    model = get_peft_model(model, LoraConfig(target_modules=targets)).train()
    sparsify(model, plain(svd_rank=3, ffn_sparsity=0.0, vo_sparsity=0.5))


def test_output_is_whole_where_value_is() -> None:
    model = tiny_model("bert")
    expected = copy.deepcopy(model)(**tiny_batch()).logits
    sparsify(model, CONFIG)
    for name, module in model.named_modules():
        if name.endswith("attention.self"):
            module.eval()
    torch.testing.assert_close(model(**tiny_batch()).logits, expected)
