"""Modules by their paths, and what is said where there is none."""

import pytest
from peft import LoHaConfig, get_peft_model
from torch import nn

from sparselora import UserError
from sparselora.sparse.backbone.paths import check_forward, kind_of, module_at, required
from sparselora.sparse.swap import new_owner, put_on
from tests.conftest import tiny_model


def layer() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.GELU()))


def test_a_module_at_a_path() -> None:
    outer = layer()
    assert module_at(outer, "0.1") is outer[0][1]
    assert module_at(outer, "0.2") is None
    assert module_at(outer, "0.1.weight") is None


def test_what_is_not_there_is_named_with_what_is() -> None:
    outer = layer()
    assert required(outer, "0.0", "layer.3") is outer[0][0]
    with pytest.raises(
        UserError, match=r"layer\.3\.0\.0\.base is not there, since layer\.3\.0\.0 is a"
    ):
        required(outer, "0.0.base", "layer.3")


def test_the_method_of_an_adapter_is_named() -> None:
    base = tiny_model("bert").unload()
    model = get_peft_model(base, LoHaConfig(target_modules=["query"], r=2))
    query = model.get_base_model().bert.encoder.layer[0].attention.self.query
    assert kind_of(query) == f"PEFT's {type(query).__name__} (LOHA)"
    plain = nn.Linear(2, 2)
    put_on(plain, type("Mixin", (), {}), new_owner())
    assert kind_of(plain) == "a Linear"


def test_a_forward_of_its_own_is_refused() -> None:
    linear = nn.Linear(2, 2)
    check_forward(linear, "layer.0.lin1")
    linear.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"layer\.0\.lin1 has a forward of its own"):
        check_forward(linear, "layer.0.lin1")
