"""Weights laid by rows: the same values, another order in memory, saved as they were."""

import torch
from torch import nn

from sparselora.sparse.backbone.memory_layout import RowsInMemory


def test_values_stay_and_strides_turn_until_they_are_given_back() -> None:
    linear = nn.Linear(3, 5)
    parameter, values = linear.weight, linear.weight.detach().clone()
    layout = RowsInMemory()
    layout.lay([linear])
    layout.lay([linear])  # as for two blocks that share one
    assert linear.weight is parameter
    assert torch.equal(linear.weight, values)
    assert linear.weight.t().is_contiguous()
    saved = linear.state_dict()["weight"]
    assert saved.is_contiguous()
    assert torch.equal(saved, values)
    layout.give_back()
    assert linear.weight.is_contiguous()
    assert torch.equal(linear.weight, values)
    assert not linear._state_dict_hooks


def test_what_lay_so_before_is_not_given_back() -> None:
    linear = nn.Linear(3, 5)
    linear.weight.data = linear.weight.data.t().contiguous().t()
    layout = RowsInMemory()
    layout.lay([linear])
    layout.give_back()
    assert linear.weight.t().is_contiguous()
