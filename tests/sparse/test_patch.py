import copy
import pickle
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from torch import nn

from sparselora import sparsify
from sparselora.errors import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.swap import HELD, sharing
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model

CONFIG = plain(svd_rank=3, ffn_sparsity=0.6)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_names_and_parameters_are_those_of_the_dense_model(model_type: str) -> None:
    model = tiny_model(model_type)
    parameters = {name: id(p) for name, p in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sparsify(model, CONFIG)
    assert parameters == {name: id(p) for name, p in model.named_parameters()}
    patched = model.state_dict()
    assert patched.keys() == state.keys()
    assert all(torch.equal(patched[name], tensor) for name, tensor in state.items())
    model.load_state_dict(state)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_evaluation_is_dense(model_type: str) -> None:
    # An earlier implementation left sparsity on while evaluating.
    model = tiny_model(model_type)
    batch = tiny_batch()
    expected = copy.deepcopy(model).eval()(**batch).logits
    handle = sparsify(model, CONFIG)
    model.eval()
    torch.testing.assert_close(model(**batch).logits, expected)
    assert all(row.realised_sparsity is None for row in handle.report())
    model.train()
    assert not torch.allclose(model(**batch).logits, expected)
    with handle.dense():
        torch.testing.assert_close(model(**batch).logits, expected)
    assert handle.enabled
    handle.disable()
    torch.testing.assert_close(model(**batch).logits, expected)


def test_padding_does_not_change_the_choice() -> None:
    batch = tiny_batch(rows=3, length=6, padded=False)
    longer = {
        "input_ids": nn.functional.pad(batch["input_ids"], (0, 9)),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 9)),
        "labels": batch["labels"],
    }
    for tokens in (None, 7):
        model = tiny_model("bert")
        config = plain(svd_rank=3, ffn_sparsity=0.6, estimator_tokens=tokens)
        handle = sparsify(model, config)
        choices = []
        for inputs in (batch, longer):
            model(**inputs)
            choices.append([ffn.chosen.tolist() for ffn in handle._sparse.values()])
        assert choices[0] == choices[1]


def test_a_dense_layer_is_left_untouched() -> None:
    model = tiny_model("bert")
    layer = model.get_base_model().bert.encoder.layer[0]
    before = (layer.intermediate.dense, layer.output.dense)
    sparsify(model, plain(ffn_sparsity=0.6, svd_rank=3, layer_sparsity={"layer.0": 0.0}))
    assert (layer.intermediate.dense, layer.output.dense) == before


def test_two_models_do_not_disturb_each_other() -> None:
    one, two = tiny_model("bert"), tiny_model("bert")
    batch = tiny_batch()
    expected = two(**batch).logits
    first = sparsify(one, CONFIG)
    assert torch.equal(two(**batch).logits, expected)
    second = sparsify(two, CONFIG)
    first.disable()
    assert second.enabled
    torch.testing.assert_close(one(**batch).logits, expected)
    assert not torch.allclose(two(**batch).logits, expected)


def test_what_cannot_be_sliced_is_refused() -> None:
    for model_type in ARCHITECTURES:
        model = tiny_model(model_type)
        sparsify(model, CONFIG)
        with pytest.raises(UserError, match="sparse already"):
            sparsify(model, CONFIG)
    bare = transformers.BertForSequenceClassification(tiny_config("bert"))
    target = {"target_modules": ["intermediate.dense"]}
    for changes, words in (
        ({"use_dora": True}, "variant of LoRA"),
        ({"lora_bias": True}, "variant"),
    ):
        model = peft.get_peft_model(copy.deepcopy(bare), peft.LoraConfig(**target, **changes))
        with pytest.raises(UserError, match=words):
            sparsify(model, CONFIG)
    two = peft.get_peft_model(copy.deepcopy(bare), peft.LoraConfig(**target))
    two.add_adapter("other", peft.LoraConfig(**target))
    two.base_model.set_adapter(["default", "other"])
    with pytest.raises(UserError, match="one is allowed"):
        sparsify(two, CONFIG)
    unadapted = transformers.BertForSequenceClassification(
        tiny_model("bert").get_base_model().config
    )
    with pytest.raises(UserError, match=r"weight trains.*get_peft_model"):
        sparsify(unadapted, CONFIG)
    with pytest.raises(UserError, match="chunk_size_feed_forward=2"):
        sparsify(tiny_model("bert", chunk_size_feed_forward=2), CONFIG)
    with pytest.raises(UserError, match="svd_rank=30"):
        sparsify(tiny_model("bert"), plain(svd_rank=30))


def test_unknown_architecture_lists_the_known() -> None:
    config = transformers.BloomConfig(hidden_size=8, n_head=2, n_layer=1, vocab_size=20)
    with pytest.raises(UserError, match=r"'bloom'.*bert, camembert.*llama.*register_architecture"):
        sparsify(transformers.BloomForSequenceClassification(config), CONFIG)


def test_patched_model_moves_and_copies_with_its_parameters() -> None:
    model = tiny_model("distilbert")
    sparsify(model, CONFIG)
    model.double()
    assert all(block.lin2.weight.dtype == torch.float64 for block in find_unpatched(model))


def find_unpatched(model: nn.Module) -> list:
    handle_free = copy.deepcopy(model)
    for module in list(handle_free.modules()):
        for name, child in list(module.named_children()):
            if HELD in child.__dict__:
                setattr(module, name, sharing(child, type(child).__bases__[1]))
    return find_blocks(handle_free)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_deep_copy_has_a_batch_of_its_own(model_type: str) -> None:
    # The hook was a closure over the original's state: a copy scored padding, or an old batch's mask.
    model = tiny_model(model_type)
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6, estimator_tokens=None))
    clone = copy.deepcopy(model)
    for rows, length in ((4, 9), (6, 12)):
        batch = tiny_batch(rows, length)
        torch.testing.assert_close(clone(**batch).logits, model(**batch).logits)
    handle.remove()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(clone(**batch).logits, model(**batch).logits)


def test_checkpointing_after_a_dense_start() -> None:
    # Dense forward passes were counted as ones that a backward pass was still due for.
    model = tiny_model("bert", dropout=0.1)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    config = plain(svd_rank=3, ffn_sparsity=0.6, sparse_warmup_ratio=0.5)
    handle = sparsify(model, config)
    for step in range(1, 9):
        share = handle.set_step(step, 8)
        model(**tiny_batch()).loss.backward()
        assert share == float(step > 4)
    assert handle.sparse_blocks["layer.0"].calls > 0


def test_evaluation_in_between_does_not_shift_a_kept_choice() -> None:
    # Ranks that evaluate would have chosen anew at another step than those that do not.
    choices = []
    for evaluates in (False, True):
        model = tiny_model("bert")
        handle = sparsify(model, plain(estimator="random", ffn_sparsity=0.6, estimator_every=3))
        chosen = []
        for _ in range(7):
            model.train()
            model(**tiny_batch())
            chosen.append(handle.sparse_blocks["layer.0"].chosen.tolist())
            if evaluates:
                model.eval()
                model(**tiny_batch())
        choices.append(chosen)
    assert choices[0] == choices[1]


def test_calibration_of_another_model() -> None:
    moments = calibrate(tiny_model("bert"), [tiny_batch()])
    other = tiny_model("bert", intermediate_size=41)
    with pytest.raises(UserError, match=r"another model's; layer.0 is \(24, 41\)"):
        sparsify(other, plain(estimator="static"), moments)


def test_not_a_transformers_model() -> None:
    with pytest.raises(UserError, match="Linear is not a transformers model"):
        sparsify(nn.Linear(3, 3), CONFIG)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama", "gpt2"])
def test_peft_finds_adapters_of_a_sparse_ffn(model_type: str) -> None:
    """Switched off, they still counted: a reference model's pass was that of the trained one."""
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(tiny_config(model_type))
    row, batch = ARCHITECTURES[model_type], tiny_batch()
    expected = base.eval()(**batch).logits
    targets = [row.lin1, row.lin2]
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    )
    handle = sparsify(model, CONFIG)
    assert not torch.allclose(model.eval()(**batch).logits, expected)
    with model.disable_adapter():
        torch.testing.assert_close(model(**batch).logits, expected)
        sparse_alone = model.train()(**batch).logits
    adapted = model(**batch).logits
    assert not torch.allclose(sparse_alone, adapted)
    assert handle.sparse_blocks["layer.0"].calls == 2


def test_a_sparse_model_is_pickled_whole() -> None:
    model = tiny_model("llama")
    sparsify(model, replace(CONFIG, qk_sparsity=0.5, vo_sparsity=0.5))
    again = pickle.loads(pickle.dumps(model))
    assert [type(module) for module in again.modules()] == [type(m) for m in model.modules()]
    torch.testing.assert_close(again(**tiny_batch()).logits, model(**tiny_batch()).logits)
