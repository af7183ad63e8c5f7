import copy
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from torch import nn

from sparselora import sparsify
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.test_patch import CONFIG


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_remove_is_an_exact_inverse(model_type: str) -> None:
    # An earlier implementation patched PEFT's classes process-wide and never restored them.
    model = tiny_model(model_type)
    forwards = {
        kind: kind.forward
        for kind in (nn.Linear, peft.tuners.lora.Linear, nn.Module, transformers.BertModel)
    }
    modules = dict(model.named_modules())
    strides = {name: p.stride() for name, p in model.named_parameters()}
    batch = tiny_batch()
    before = model(**batch).logits
    handle = sparsify(model, CONFIG)
    assert not torch.equal(model(**batch).logits, before)
    handle.remove()
    handle.remove()
    after = dict(model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert strides == {name: p.stride() for name, p in model.named_parameters()}
    assert torch.equal(model(**batch).logits, before)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(kind.forward is forward for kind, forward in forwards.items())
    with pytest.raises(RuntimeError, match="sparsify"):
        handle.enable()


def test_report_counts_in_the_step() -> None:
    model = tiny_model("bert")
    handle = sparsify(
        model,
        plain(svd_rank=3, ffn_sparsity=0.6, layer_sparsity={"layer.0": 0.0}),
    )
    assert handle.report()[1].realised_sparsity is None
    for _ in range(3):
        model(**tiny_batch())
    rows = handle.report()
    assert [row.name for row in rows] == ["layer.0", "layer.1", "layer.2"]
    assert [row.kept for row in rows] == [37, 15, 15]
    assert rows[0].realised_sparsity == 0.0
    assert rows[1].realised_sparsity == pytest.approx(1 - 15 / 37)
    # A call that computed another width would show in the count.
    handle._sparse["layer.1"].kept = 37
    model(**tiny_batch())
    assert handle.report()[1].realised_sparsity == pytest.approx(1 - (3 * 15 + 37) / (4 * 37))


def test_remove_leaves_what_was_put_there_since() -> None:
    """After `merge_and_unload` it brought the adapters back, beside weights that held them already."""
    model = tiny_model("bert")
    handle = sparsify(model, replace(CONFIG, qk_sparsity=0.5, vo_sparsity=0.5))
    merged = model.merge_and_unload().eval()
    expected = merged(**tiny_batch()).logits
    handle.remove()
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(merged(**tiny_batch()).logits, expected)


def test_a_deep_copy_with_its_handle_is_taken_back_in_the_mode_it_is_in() -> None:
    model = tiny_model("bert", dropout=0.5)
    clone, handle = copy.deepcopy((model, sparsify(model, CONFIG)))
    clone.eval()
    handle.remove()
    assert not any(module.training for module in clone.modules())


def test_the_switch_and_its_contexts() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, CONFIG)
    ffn = handle.sparse_blocks["layer.0"]
    model(**tiny_batch())
    assert (handle.enabled, ffn.calls) == (True, 1)
    with handle.dense():
        model(**tiny_batch())
        assert not handle.enabled
    handle.disable()
    model(**tiny_batch())
    handle.enable()
    assert ffn.calls == 1
    model(**tiny_batch())
    assert ffn.calls == 2
    handle.remove()
    handle.remove()  # once more is nothing
    with pytest.raises(RuntimeError, match="taken back by remove"):
        handle.enable()


def test_the_step_sets_the_share() -> None:
    config = replace(CONFIG, sparse_warmup_ratio=0.2, sparse_rampup_ratio=0.4)
    handle = sparsify(tiny_model("bert"), config)
    shares = [handle.set_step(step, 10) for step in range(1, 11)]
    assert shares == [config.phases(10).share(step) for step in range(1, 11)]
    handle.set_step(1, 10)
    assert not handle.enabled
    handle.set_step(4, 10)
    assert handle.enabled
    assert 15 < handle.sparse_blocks["layer.0"].kept_now < 37


@pytest.mark.parametrize("every", [1, 3])
def test_it_goes_on_from_its_state(every: int) -> None:
    config = plain(
        estimator="random", ffn_sparsity=0.6, qk_sparsity=0.5, estimator_every=every, seed=3
    )
    model, other = tiny_model("bert"), tiny_model("bert")
    handle, resumed = sparsify(model, config), sparsify(other, config)
    for _ in range(4):
        model(**tiny_batch())
    resumed.load_state_dict(copy.deepcopy(handle.state_dict()))
    for _ in range(3):
        torch.testing.assert_close(model(**tiny_batch()).logits, other(**tiny_batch()).logits)
    for one, two in zip(handle.report(), resumed.report(), strict=True):
        assert one == two
