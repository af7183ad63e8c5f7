"""Cross entropy as one function, against transformers' and torch's own."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

from sparselora import accelerate, sparsify
from sparselora.sparse.channels.tokens import IGNORED
from sparselora.sparse.ops.cross_entropy import CrossEntropyFunction, causal_lm_loss
from tests.conftest import plain, tiny_config
from tests.sparse.blocks.test_ffn import assert_all_close
from tests.sparse.channels.test_tokens import completions, tiny_decoder


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    words=st.integers(1, 7),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1.0, 300.0]),
)
def test_function_against_torchs(rows: int, words: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, words, dtype=torch.float64, generator=generator)
    logits.requires_grad_()
    labels = torch.randint(-1, words, (rows,), generator=generator)
    given_logits = logits.detach().clone()
    expected = cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    got = CrossEntropyFunction.apply(logits, labels, -1)
    torch.testing.assert_close(got, expected)
    for _ in range(2):  # the second backward pass finds what the first one did
        (grad,) = torch.autograd.grad(2.5 * got, logits, retain_graph=True)
        torch.testing.assert_close(
            grad, torch.autograd.grad(2.5 * expected, logits, retain_graph=True)[0]
        )
    assert torch.equal(logits, given_logits)


@pytest.mark.parametrize("items", [None, 7, torch.tensor(7)])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arguments_are_transformers(
    items: int | torch.Tensor | None, shifted: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 11, dtype=dtype, requires_grad=True)
    labels = torch.randint(11, (3, 6))
    labels[0, :3] = IGNORED
    arguments = {"labels": None, "shift_labels": labels} if shifted else {"labels": labels}
    results = []
    for loss_of in (ForCausalLMLoss, causal_lm_loss):
        loss = loss_of(logits, vocab_size=11, num_items_in_batch=items, **arguments)
        results.append({"loss": loss.detach(), "grad": torch.autograd.grad(loss, logits)[0]})
    assert_all_close(results[1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0)])
def test_a_batch_without_a_label_has_no_gradient(items: int | torch.Tensor | None) -> None:
    # An earlier version gave NaN, as the loss is, and one step of those ruins the adapters.
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = causal_lm_loss(logits, torch.full((2, 3), IGNORED), 5, num_items_in_batch=items)
    assert loss.isnan()
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_models_take_it_and_give_the_same() -> None:
    model, batch = tiny_decoder("llama"), completions()
    base = model.get_base_model()
    reference = copy.deepcopy(model)
    loss = reference(**batch).loss
    loss.backward()
    faster = accelerate(model)
    assert base.loss_function is causal_lm_loss
    assert pickle.loads(pickle.dumps(base)).loss_function is causal_lm_loss
    ours = model(**batch).loss
    ours.backward()
    torch.testing.assert_close(ours, loss)
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    faster.remove()
    assert base.loss_function is ForCausalLMLoss
    assert "_loss_function" not in vars(base)


class OwnLoss(LlamaForCausalLM):
    """A user's model, with a method where transformers has a property."""

    def loss_function(self, logits: torch.Tensor, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        return logits.square().mean()


def test_a_method_of_the_users_own_stays() -> None:
    model = OwnLoss(tiny_config("llama")).train()
    expected = model(**completions()).loss
    faster = accelerate(model)
    torch.testing.assert_close(model(**completions()).loss, expected)
    faster.remove()
    torch.testing.assert_close(model(**completions()).loss, expected)


def test_a_loss_of_the_users_own_stays() -> None:
    model = tiny_decoder("llama")
    base = model.get_base_model()
    base.loss_function = ForCausalLMLoss
    handle = sparsify(model, plain(svd_rank=2, ffn_sparsity=0.5))
    assert base.loss_function is ForCausalLMLoss
    handle.remove()
    assert vars(base)["_loss_function"] is ForCausalLMLoss
