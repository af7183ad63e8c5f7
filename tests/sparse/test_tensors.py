"""Tensors in nested values."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.sparse.tensors import tensors_in


@dataclass
class Pair:
    first: Tensor
    second: Any


def test_every_tensor_is_found_once() -> None:
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    norm = nn.BatchNorm1d(4)  # has buffers beside parameters
    value = (one, {"a": Pair(two, (three, "text", None))}, norm)
    found = list(tensors_in(value))
    expected = [one, two, three, *norm.parameters(), *norm.buffers()]
    assert [id(each) for each in found] == [id(each) for each in expected]


def test_others_hold_none() -> None:
    assert not list(tensors_in([torch.ones(1)]))  # a list may hold anything, such as calls
    assert not list(tensors_in("text"))
