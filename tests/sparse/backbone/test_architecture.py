from dataclasses import replace
from typing import Any

import pytest

from sparselora.errors import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lin1", ""),
        ("lin1", "mlp..up"),
        ("lin1", None),
        ("layers", "encoder layer"),
        ("gate", "a-b"),
        ("attention", ("query", "key", "value")),
        ("attention", ["query", "key", "value", "output"]),
        ("attention", ("query", "key", "value", "")),
        ("head", ()),
        ("positions", "rows"),
        ("rms_norm_class", "my norm"),
    ],
)
def test_a_row_that_names_no_module_is_refused_when_it_is_made(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^architecture: {field}="):
        replace(ARCHITECTURES["llama"], **{field: value})


@pytest.mark.parametrize("field", ["called", "picks_first_token"])
def test_a_place_may_be_the_model_itself(field: str) -> None:
    assert getattr(replace(ARCHITECTURES["bert"], **{field: ""}), field) == ""


@pytest.mark.parametrize(
    ("model_type", "fused", "some_tokens", "any_side"),
    [
        ("bert", False, True, False),
        ("deberta-v2", False, False, False),
        ("gpt2", True, False, False),
        ("llama", False, True, True),
        ("opt", False, True, True),
        ("modernbert", True, False, False),
    ],
)
def test_what_follows_from_a_row(
    model_type: str, fused: bool, some_tokens: bool, any_side: bool
) -> None:
    row = ARCHITECTURES[model_type]
    found = (row.fused_attention, row.query_of_some_tokens, row.pads_on_any_side)
    assert found == (fused, some_tokens, any_side)
