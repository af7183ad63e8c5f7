"""Weights in llama.cpp's format."""

from pathlib import Path

import pytest
import torch
import transformers

from sparselora.config.groups import ModelConfig
from sparselora.data import assets
from sparselora.errors import UserError
from sparselora.model.gguf import unpacked
from sparselora.model.load import load_model_config


def test_unpacked_is_what_transformers_reads(tmp_path: Path) -> None:
    """The embedded decoder: weights, tokenizer and chat template to the bit."""
    folder = assets.resolve("asset:smollm2")
    made = unpacked(folder, "model.gguf")
    assert made is not None
    assert unpacked(folder, "model.gguf") == made
    ours = transformers.AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32).state_dict()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.float32
    ).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    text = "The films' story — naïve! 123\n ok"
    tokenizers = [
        transformers.AutoTokenizer.from_pretrained(made),
        transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf"),
    ]
    chat = [{"role": "user", "content": text}]
    for tokenizer in tokenizers[1:]:
        assert tokenizer(text)["input_ids"] == tokenizers[0](text)["input_ids"]
        assert tokenizer.apply_chat_template(chat, tokenize=False) == tokenizers[
            0
        ].apply_chat_template(chat, tokenize=False)


def test_what_is_no_local_file_is_left_to_transformers(tmp_path: Path) -> None:
    assert unpacked("someone/model", "model.gguf") is None
    assert unpacked(str(tmp_path), "missing.gguf") is None


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    config = ModelConfig(name="x", name_or_path=str(tmp_path), gguf_file="broken.gguf")
    with pytest.raises(UserError, match=r"model\.name_or_path=.*cannot be loaded"):
        load_model_config(config)
