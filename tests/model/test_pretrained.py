import json
from pathlib import Path

import pytest
import torch
import transformers

from sparselora.config.groups import ModelConfig
from sparselora.errors import UserError
from sparselora.model.pretrained import load_model_config, read_pretrained


def model(folder: Path, **changes: object) -> ModelConfig:
    return ModelConfig(name="tiny", name_or_path=str(folder), **changes)  # type: ignore[arg-type]


def test_sizes_come_without_weights(hub_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json",):
        (tmp_path / name).write_text((hub_folder / name).read_text())
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 2_000_000)  # no weights, and not read
    config = load_model_config(model(tmp_path), ["no", "yes", "both"])
    assert config.hidden_size == json.loads((hub_folder / "config.json").read_text())["hidden_size"]
    assert config.id2label == {0: "no", 1: "yes", 2: "both"}
    assert config.label2id["both"] == 2


def test_random_weights_need_no_folder() -> None:
    config = load_model_config(
        ModelConfig(
            name="tiny",
            name_or_path="nowhere",
            random_init=True,
            init_config={"model_type": "bert", "hidden_size": 48},
        )
    )
    assert (config.model_type, config.hidden_size) == ("bert", 48)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "model.init_config.model_type: needed"),
        ({"model_type": "no_such"}, "^model.init_config: "),
        ({"model_type": "t5"}, "no FFN blocks known for the architecture 't5'"),
    ],
)
def test_what_no_model_can_be_made_of_is_a_line(settings: dict[str, str], message: str) -> None:
    random = ModelConfig(name="x", name_or_path="x", random_init=True, init_config=dict(settings))
    with pytest.raises(UserError, match=message) as raised:
        load_model_config(random)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no_such"}'])
def test_a_file_that_is_not_what_it_says_is_a_line_that_names_it(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"model.name_or_path=.*config\.json cannot be loaded"
    ) as raised:
        read_pretrained(transformers.AutoConfig, model(tmp_path))
    assert "\n" not in str(raised.value)


def test_memory_that_runs_out_is_no_mistake_of_the_users(hub_folder: Path) -> None:
    class Full:
        @staticmethod
        def from_pretrained(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        read_pretrained(Full, model(hub_folder))
