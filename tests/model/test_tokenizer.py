"""A tokenizer is whole, pads as its model needs it, or is refused in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparselora.config.groups import ModelConfig
from sparselora.model.tokenizer import load_tokenizer
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import WORDS, tiny_config, word_tokenizer
from tests.model.checkpoints import TYPES, load, refused


@pytest.mark.parametrize("model_type", TYPES)
def test_a_folder_without_vocabulary(copy: Callable[[str], Path], model_type: str) -> None:
    folder = copy(model_type)
    (folder / "tokenizer.json").unlink()
    refused(folder)
    (folder / "tokenizer_config.json").unlink()
    refused(folder, "okenizer")


def test_small_vocabularies_are_whole(tmp_path: Path, copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b")
    _, tokenizer, _ = load(folder)
    assert tokenizer("ab")["input_ids"] == [2, 5, 6, 3]


def test_no_token_to_pad_with(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    refused(folder, "neither a pad token nor an end-of-text token")


def model_config(path: object) -> ModelConfig:
    return ModelConfig(name="mine", name_or_path=str(path))


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_a_tokenizer_reads_as_its_file(tmp_path: Path, model_type: str) -> None:
    """One class made another of it, to which five words were one token."""
    tiny_config(model_type).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(model_config(tmp_path))
    ids = tokenizer(" ".join(WORDS), add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == WORDS
