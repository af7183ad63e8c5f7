"""Hooks that tell a sparse model's blocks of a call."""

import copy

import pytest
import torch

from sparselora import sparsify
from sparselora.sparse.channels.call_hooks import state_of
from tests.conftest import plain, tiny_batch, tiny_model


def test_the_state_is_found_by_its_hook() -> None:
    model = tiny_model("bert")
    assert state_of(model) is None
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    assert state_of(model) is state_of(model.get_base_model()) is handle.state
    clone = copy.deepcopy(model)
    assert state_of(clone) not in (None, handle.state)
    handle.remove()
    assert state_of(model) is None
    assert state_of(clone) is not None


def test_a_call_is_noted_with_its_mask_and_ended() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    batch = tiny_batch()
    model(**batch)
    call = handle.state.call
    assert call is not None
    assert call.sparse
    assert call.number == handle.state.forward_count == 1
    assert torch.equal(call.attention_mask, batch["attention_mask"])  # type: ignore[arg-type]
    with torch.no_grad():
        model(**batch)
    assert handle.state.call is call  # one without gradients leaves no trace


def test_a_call_that_fails_has_ended() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    model(**tiny_batch())
    call = handle.state.call
    with torch.no_grad(), pytest.raises(IndexError):
        model(input_ids=torch.full((2, 3), 10**6))
    assert handle.state.call is call
