"""Where a transformers model has its parts, inside and outside of PEFT's wrapper."""

import peft
import pytest
import transformers
from torch import nn

from sparselora import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.lookup import (
    get_architecture,
    get_backbone,
    get_called,
    get_head,
    get_model_shape,
)
from sparselora.sparse.backbone.model_shape import ModelShape
from tests.conftest import tiny_config, tiny_model


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_parts_are_found_below_the_adapters(model_type: str) -> None:
    model = tiny_model(model_type)
    head, backbone = get_head(model), get_backbone(model)
    assert head is model.get_base_model()
    assert backbone is head.base_model
    assert get_backbone(head) is get_backbone(backbone) is backbone
    assert get_called(model) is backbone.get_submodule(ARCHITECTURES[model_type].called)
    assert get_architecture(backbone.config) is ARCHITECTURES[model_type]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_sizes_are_those_of_the_weights(model_type: str) -> None:
    assert get_model_shape(tiny_config(model_type)) == ModelShape(3, 24, 37)


def test_a_width_that_is_not_given_is_four_times_the_hidden_size() -> None:
    config = transformers.GPT2Config(n_embd=24, n_layer=1, n_head=2)
    assert config.n_inner is None
    assert get_model_shape(config).intermediate_size == 96


def test_a_model_of_several_kinds_of_adapters() -> None:
    base = tiny_model("bert").unload()
    mixed = peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"]), mixed=True)
    assert get_head(mixed) is base


def test_what_is_not_a_transformers_model_is_refused() -> None:
    with pytest.raises(UserError, match="Sequential is not a transformers model"):
        get_backbone(nn.Sequential(nn.Linear(2, 2)))


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'bloom'; supported are bert, .*register_architecture"):
        get_architecture(transformers.BloomConfig())
