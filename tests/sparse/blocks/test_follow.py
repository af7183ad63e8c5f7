import copy

import pytest
import torch
from torch import nn

from sparselora import UserError, sparsify
from sparselora.sparse.backbone.lookup import get_backbone
from tests.conftest import plain, tiny_batch, tiny_model

CONFIG = plain(estimator="magnitude", ffn_sparsity=0.6, qk_sparsity=0.5)


def test_a_block_goes_on_with_the_module_that_is_put_there() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, CONFIG)
    model(**tiny_batch())
    ffn = handle.sparse_blocks["layer.1"]
    layer = get_backbone(model).encoder.layer[1]
    before = layer.intermediate.dense
    fresh = nn.Linear(24, 37)
    fresh.requires_grad_(False)
    layer.intermediate.dense = fresh
    model(**tiny_batch())
    assert ffn.calls == 2
    assert torch.equal(ffn.choice.gathered["ffn"].lin1, fresh.weight[ffn.chosen])
    handle.remove()
    assert type(fresh) is type(before) is nn.Linear


def test_attention_goes_on_likewise() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, CONFIG)
    model(**tiny_batch())
    sparse = handle.sparse_attention["layer.1"]
    attention = get_backbone(model).encoder.layer[1].attention.self
    attention.query = copy.deepcopy(attention.query)
    with torch.no_grad():
        attention.query.base_layer.weight.mul_(2)
    model(**tiny_batch())
    assert sparse.attention.projections["query"].module is attention.query
    chosen = sparse.chosen
    assert chosen is not None
    expected = attention.query.base_layer.weight[chosen.query]
    assert torch.equal(sparse.choice.gathered["query"].weight, expected)


def test_what_does_not_fit_is_refused_in_a_line() -> None:
    model = tiny_model("bert")
    handle = sparsify(model, CONFIG)
    layer = get_backbone(model).encoder.layer[1]
    layer.intermediate.dense = nn.Linear(24, 40).requires_grad_(False)
    layer.output.dense = nn.Linear(40, 24).requires_grad_(False)
    with pytest.raises(
        UserError, match=r"layer\.1's FFN is \(24, 40\) now.*changed after sparsify"
    ):
        model(**tiny_batch())
    handle.remove()
    model(**tiny_batch())
