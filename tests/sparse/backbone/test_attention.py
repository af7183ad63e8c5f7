"""Attention projections as the table finds them."""

from typing import Any

import pytest
import torch
from torch import nn

from sparselora import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.attention import ROLES, find_attention
from tests.conftest import tiny_model


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_shapes_are_those_of_heads(model_type: str) -> None:
    found = find_attention(tiny_model(model_type))
    assert [each.name for each in found] == ["layer.0", "layer.1", "layer.2"]
    for each in found:
        keys = each.key_value_heads * each.head_dim
        queries = keys * each.groups
        assert each.hidden_size == 24
        assert each.is_current
        assert each.weight("query").shape == (queries, 24)
        assert each.weight("key").shape == each.weight("value").shape == (keys, 24)
        assert each.projections["output"].weight.shape == (24, queries)
        for role in ("query", "key", "value"):
            bias = each.bias(role)
            assert bias is None or bias.shape == each.weight(role).shape[:1]
        assert list(each.paths) == list(ROLES)


@pytest.mark.parametrize("model_type", ["gpt2", "modernbert", "phi3"])
def test_a_fused_projection_holds_query_above_key_above_value(model_type: str) -> None:
    attention = find_attention(tiny_model(model_type))[0]
    assert attention.fused
    together = torch.cat([attention.weight(role) for role in ("query", "key", "value")])
    assert torch.equal(together, attention.projections["query"].weight)


def test_what_is_put_in_its_place_is_found_again() -> None:
    attention = find_attention(tiny_model("bert"))[0]
    owner: Any = attention.layer.get_submodule("attention.self")
    owner.key = nn.Linear(24, 24)
    assert not attention.is_current
    again = attention.looked_up()
    assert again.is_current
    assert again.projections["key"].module is owner.key
    with pytest.raises(UserError, match=r"attention\.self\.key\.weight trains"):
        again.check_sliceable(["key"], queries=True)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_scattered_weights_are_those_whose_channels_are_columns(model_type: str) -> None:
    attention = find_attention(tiny_model(model_type))[0]
    scattered = list(attention.scattered())
    if (
        model_type == "gpt2"
    ):  # stored transposed: its inputs' channels are columns, its output's rows
        assert [tuple(weight.shape) for weight in scattered] == [(24, 72)]
    else:
        output = attention.projections["output"].base.get_parameter("weight")
        assert len(scattered) == 1
        assert scattered[0] is output


def test_a_rotation_of_a_part_of_each_head_is_refused() -> None:
    attention = find_attention(tiny_model("llama"))[0]
    attention.check_sliceable(["query"], queries=True)
    attention.rotary_share = 0.5
    with pytest.raises(UserError, match=r"a rotation of 0\.5 of each head"):
        attention.check_sliceable(["query"], queries=True)
    attention.check_sliceable(["value"], queries=False)
