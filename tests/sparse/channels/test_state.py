"""Which calls of a model are sparse, and that a recomputation has what its forward pass had."""

import copy
import gc
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from sparselora import UserError, sparsify
from sparselora.sparse.channels import sampling, state
from sparselora.sparse.channels.call_hooks import state_of
from sparselora.sparse.channels.state import Call
from sparselora.sparse.estimators import ESTIMATORS
from sparselora.sparse.patch import SparsityHandle
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model

CONFIG = plain(svd_rank=3, ffn_sparsity=0.6)
SETTINGS = {
    **{name: {"estimator": name} for name in ESTIMATORS},
    "every": {"estimator": "random", "estimator_every": 3},
    "attention": {"estimator": "random", "qk_sparsity": 0.5, "vo_sparsity": 0.5},
    "context": {"estimator": "random", "tokens": "context"},
    "context attention": {"tokens": "context", "qk_sparsity": 0.5, "vo_sparsity": 0.5},
}


def causal_model(dropout: float = 0.0) -> PeftModel:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config("llama", dropout))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    lora = LoraConfig(
        r=4, target_modules=targets, init_lora_weights=False, lora_dropout=0, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora).train()


def causal_batch(rows: int = 4, length: int = 9) -> dict[str, torch.Tensor]:
    batch = tiny_batch(rows, length)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, : length // 2] = -100
    return batch | {"labels": labels}


def sparse_model(**settings: Any) -> tuple[PeftModel, SparsityHandle]:
    model = causal_model()
    config = replace(CONFIG, **settings)
    return model, sparsify(model, config, calibration=causal_batch())


def checkpointed(model: PeftModel, reentrant: bool | None) -> None:
    if reentrant is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def two_forwards(model: PeftModel) -> None:
    (model(**causal_batch()).loss + 2 * model(**causal_batch(3, 7)).loss).backward()


def first_forward_last(model: PeftModel) -> None:
    one, two = model(**causal_batch()).loss, model(**causal_batch(3, 7)).loss
    one.backward()
    two.backward()


def dropped_graph(model: PeftModel) -> None:
    model(**causal_batch(3, 7))
    model(**causal_batch()).loss.backward()


def reference_between(model: PeftModel) -> None:
    loss = model(**causal_batch()).loss
    with torch.no_grad():
        model(**causal_batch(3, 7))
    loss.backward()
    model(**causal_batch(2, 5)).loss.backward()


def evaluation_between(model: PeftModel) -> None:
    loss = model(**causal_batch()).loss
    model.eval()
    model(**causal_batch(3, 7))
    model.train()
    loss.backward()
    model(**causal_batch(2, 5)).loss.backward()


def failure_between(model: PeftModel) -> None:
    loss = model(**causal_batch()).loss
    with torch.no_grad(), pytest.raises(IndexError):
        model(input_ids=torch.tensor([[1, 10_000]]))
    loss.backward()


def switched_off_between(model: PeftModel) -> None:
    handle = state_of(model).handle
    loss = model(**causal_batch()).loss
    handle.disable()
    loss.backward()
    handle.enable()
    model(**causal_batch(3, 7)).loss.backward()


def risen_between(model: PeftModel) -> None:
    state = state_of(model)
    state.switch(0.5)
    loss = model(**causal_batch()).loss
    state.switch(1.0)
    loss.backward()


def backward_twice(model: PeftModel) -> None:
    loss = model(**causal_batch()).loss
    loss.backward(retain_graph=True)
    model(**causal_batch(2, 5)).loss.backward()
    loss.backward()


ORDERS = (
    switched_off_between,
    risen_between,
    backward_twice,
    two_forwards,
    first_forward_last,
    dropped_graph,
    reference_between,
    evaluation_between,
    failure_between,
)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_checkpointing_is_the_plain_step_in_any_order(
    settings: str, order: Callable[[PeftModel], None], reentrant: bool
) -> None:
    """DPO's reference, which runs before the backward pass, was an error; so were two forwards."""
    results = []
    for checkpointing in (None, reentrant):
        model, handle = sparse_model(**SETTINGS[settings])
        checkpointed(model, checkpointing)
        order(model)
        calls = handle.sparse_blocks["layer.0"].calls
        results.append((gradients(model), calls, handle.report()))
    (expected, calls, report), (got, calls_again, report_again) = results
    assert expected.keys() == got.keys()
    assert any(gradient.any() for gradient in expected.values())
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    assert calls == calls_again
    assert report == report_again


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_two_kinds_of_checkpointing_agree_to_the_digit(settings: str) -> None:
    results = []
    for reentrant in (False, True):
        model, _ = sparse_model(**SETTINGS[settings])
        checkpointed(model, reentrant)
        # Of two, gradients are summed in another order.
        model(**causal_batch()).loss.backward()
        results.append(gradients(model))
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_call_without_gradients_is_dense_and_leaves_no_trace(settings: str) -> None:
    """References and rollouts of a model in training mode were sparse, and shifted kept choices."""
    results = []
    for others in (False, True):
        model, handle = sparse_model(**SETTINGS[settings])
        dense = causal_model()
        for step in range(5):
            model(**causal_batch(4, 9 + step % 2)).loss.backward()
            if others:
                with torch.no_grad():
                    found = model(**causal_batch(3, 7)).logits
                    torch.testing.assert_close(found, dense(**causal_batch(3, 7)).logits)
                    ids = causal_batch(2, 5)["input_ids"]
                    model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
        state = handle.state_dict()
        results.append((gradients(model), str(state), handle.report()))
    for name, gradient in results[0][0].items():
        assert torch.equal(gradient, results[1][0][name]), name
    assert results[0][1:] == results[1][1:]


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "gpt2", "llama", "opt"])
def test_a_reference_of_each_kind_of_model_is_dense(model_type: str) -> None:
    model = tiny_model(model_type)
    expected = copy.deepcopy(model)(**tiny_batch()).logits
    sparsify(model, CONFIG)
    with torch.no_grad():
        torch.testing.assert_close(model(**tiny_batch()).logits, expected)
    assert not torch.allclose(model(**tiny_batch()).logits, expected)


@pytest.mark.parametrize("settings", SETTINGS)
def test_sparse_calls_without_gradients_where_they_are_asked_for(settings: str) -> None:
    model, handle = sparse_model(**SETTINGS[settings])
    plain, _ = sparse_model(**SETTINGS[settings])
    batch = causal_batch()
    with handle.without_gradients(), torch.no_grad():
        found = model(**batch).logits
    expected = plain(**batch).logits
    torch.testing.assert_close(found, expected)
    assert handle.sparse_blocks["layer.0"].calls == 1  # counted as a call, of no training step
    assert handle.state.forward_count is None
    torch.testing.assert_close(model(**batch).logits, expected)  # drawn as if nothing had been


def test_a_sparse_reference_makes_the_first_preference_loss_log_2() -> None:
    model = causal_model()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    handle = sparsify(model, replace(CONFIG, estimator="svd"))
    policy = model(**causal_batch()).loss
    with torch.no_grad(), model.disable_adapter():
        dense = model(**causal_batch()).loss
        with handle.without_gradients():
            sparse = model(**causal_batch()).loss
    assert policy == sparse
    assert policy != dense


def test_checkpointing_around_the_whole_model_names_the_way_out() -> None:
    model, _ = sparse_model()
    model.enable_input_require_grads()
    ids = causal_batch()["input_ids"]
    output = torch.utils.checkpoint.checkpoint(
        lambda given: model(input_ids=given).logits, ids, use_reentrant=False
    )
    with pytest.raises(UserError, match="gradient_checkpointing_enable"):
        output.sum().backward()


def test_a_schedule_that_nobody_follows_is_told_once() -> None:
    for key in ("sparse_warmup_ratio", "sparse_rampup_ratio", "sparse_cooldown_ratio"):
        model, handle = sparse_model(**{key: 0.2})
        with pytest.warns(UserWarning, match=f"{key}=0.2: without effect"):
            model(**causal_batch())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(**causal_batch())
        for tell in (lambda h: h.set_step(1, 10), SparsityHandle.enable, SparsityHandle.disable):
            model, handle = sparse_model(**{key: 0.2})
            tell(handle)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                model(**causal_batch())


def test_all_tokens_labelled_is_told_and_counted_dense() -> None:
    """Nothing was saved, and the report said what had been asked for."""
    model, handle = sparse_model(tokens="context")
    batch = causal_batch()
    labelled = batch | {
        "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    }
    with pytest.warns(UserWarning, match="every token of the first batch has a label"):
        model(**labelled)
    assert {row.realised_sparsity for row in handle.report()} == {0.0}


def test_labels_that_a_trainer_took_out_are_asked_for() -> None:
    model, _ = sparse_model(tokens="context")
    batch = causal_batch()
    del batch["labels"]
    with pytest.raises(UserError, match="label smoothing"):
        model(**batch)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_dropped_graph_takes_its_call_along(reentrant: bool | None) -> None:
    model, handle = sparse_model()
    checkpointed(model, reentrant)
    losses = [model(**causal_batch()).loss for _ in range(10)]
    alive = weakref.WeakSet(each for each in gc.get_objects() if isinstance(each, Call))
    assert len(alive) >= 10
    del losses
    gc.collect()
    assert len(alive) == 1  # the last one, which is in hand
    weight = weakref.ref(model.base_model.model.model.layers[0].mlp.up_proj.weight)
    del model, handle
    gc.collect()
    assert weight() is None


def test_tokens_to_score_are_found_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []

    def noted(hidden_states: Tensor, mask: Tensor, tokens: int) -> sampling.Positions:
        masks.append(mask)
        return sampling.positions_to_sample(hidden_states, mask, tokens)

    monkeypatch.setattr(state, "positions_to_sample", noted)
    model = tiny_model("bert")
    config = plain(
        svd_rank=2, ffn_sparsity=0.5, qk_sparsity=0.5, vo_sparsity=0.5, estimator_tokens=8
    )
    handle = sparsify(model, config)
    batch = tiny_batch()
    other = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    for each in (batch, other):
        model(**each).loss.backward()
    # The last FFN is of first tokens, whatever the mask says of them.
    assert len(masks) == 4
    for index, each in enumerate((batch, other)):
        assert torch.equal(masks[2 * index], each["attention_mask"])
        assert masks[2 * index + 1] is None
    handle.remove()


def test_realised_sparsity_weighs_by_real_tokens() -> None:
    model, handle = sparse_model(tokens="context")
    batch = causal_batch()
    model(**batch)
    mask, labels = batch["attention_mask"].bool(), batch["labels"] != -100
    dense = labels.clone()
    dense[:, :-1] |= labels[:, 1:]
    dense &= mask
    context = int((mask & ~dense).sum())
    row = handle.report()[0]
    assert row.realised_sparsity == pytest.approx(row.sparsity * context / int(mask.sum()))
    # Sparsity that rises: a long batch weighs more than a short one.
    model, handle = sparse_model(sparse_rampup_ratio=0.5)
    computed = tokens = 0
    for step, length in ((1, 9), (5, 30)):
        handle.set_step(step, 6)
        batch = causal_batch(4, length)
        model(**batch)
        real = int(batch["attention_mask"].sum())
        tokens += real
        computed += real * len(handle.sparse_blocks["layer.1"].chosen)
    assert handle.report()[1].realised_sparsity == pytest.approx(1 - computed / (37 * tokens))
