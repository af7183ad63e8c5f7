from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from sparselora.training.adapters import adapter_state, load_adapter_state, save_adapter
from tests.conftest import tiny_model, word_tokenizer


def trained(model: PeftModel) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_the_state_is_a_copy_that_can_be_put_back() -> None:
    model = tiny_model("bert")
    before = [parameter.detach().clone() for parameter in trained(model)]
    state = adapter_state(model)
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(1)
    assert not any(map(torch.equal, before, trained(model)))
    load_adapter_state(model, state)
    assert all(map(torch.equal, before, trained(model)))


def test_a_later_adapter_replaces_the_folder(tmp_path: Path) -> None:
    model, folder = tiny_model("bert"), tmp_path / "adapter" / "best"
    folder.parent.mkdir()
    save_adapter(model, word_tokenizer(), folder)
    (folder / "stray").write_text("")
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(1)
    save_adapter(model, word_tokenizer(), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["best"]
    assert not (folder / "stray").exists()
    weights, state = load_file(folder / "adapter_model.safetensors"), adapter_state(model)
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


def test_a_failing_disk_leaves_the_earlier_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = tiny_model("bert"), tmp_path / "best"
    save_adapter(model, word_tokenizer(), folder)
    stored = (folder / "adapter_model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, word_tokenizer(), folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == stored
