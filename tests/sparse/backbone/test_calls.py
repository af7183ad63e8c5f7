"""Arguments of a call, by position and by name."""

import pytest
import torch

from sparselora.sparse.backbone.calls import argument, padding_mask
from sparselora.sparse.backbone.lookup import get_backbone
from tests.conftest import tiny_model

IDS = torch.arange(8).view(2, 4)
MASK = torch.ones(2, 4, dtype=torch.long)


def test_an_argument_however_it_is_given() -> None:
    backbone = get_backbone(tiny_model("bert"))
    assert argument(backbone, "attention_mask", (IDS, MASK), {}) is MASK
    assert argument(backbone, "attention_mask", (IDS,), {"attention_mask": MASK}) is MASK
    assert argument(backbone, "attention_mask", (IDS,), {}) is None
    assert argument(backbone, "attention_mask", (), {"input_ids": IDS}) is None


@pytest.mark.parametrize("name", ["input_ids", "inputs_embeds"])
def test_a_mask_of_earlier_tokens_too_is_cut(name: str) -> None:
    backbone = get_backbone(tiny_model("bert"))
    longer = torch.cat([torch.zeros(2, 3, dtype=torch.long), MASK], 1)
    states = IDS if name == "input_ids" else torch.randn(2, 4, 24)
    mask = padding_mask(backbone, (), {name: states, "attention_mask": longer})
    assert mask is not None
    assert torch.equal(mask, MASK)


def test_what_is_not_a_mask_of_padding_is_none() -> None:
    backbone = get_backbone(tiny_model("bert"))
    assert padding_mask(backbone, (IDS,), {}) is None
    assert padding_mask(backbone, (IDS, MASK.view(2, 1, 1, 4)), {}) is None
    assert padding_mask(backbone, (), {"attention_mask": MASK}) is MASK
