"""Tokens against the model that reads them, and what is told of a model that was loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sparselora.data.batches import TokenizedSplit
from sparselora.data.splits import Split
from sparselora.errors import UserError
from sparselora.model.causal_lm import tokenize_completions
from sparselora.model.token_checks import check_tokens, told, unknown_share
from tests.conftest import WORDS, Outcome, word_tokenizer

Invoke = Callable[..., Outcome]


def run(batch_size: int = 4) -> Any:
    return SimpleNamespace(
        model=SimpleNamespace(name_or_path="mine"),
        data=SimpleNamespace(path="x.csv"),
        train=SimpleNamespace(batch_size=batch_size),
        measure=SimpleNamespace(eval_batch_size=batch_size),
    )


def split(*rows: list[int], types: int = 0) -> TokenizedSplit:
    features = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [types] * len(ids)}
        for ids in rows
    ]
    return TokenizedSplit(features, [0] * len(rows))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
@pytest.mark.parametrize("beyond", [0, 1, 500])
def test_an_id_beyond_the_embedding_is_one_line(name: str, beyond: int) -> None:
    size = len(word_tokenizer())
    config = SimpleNamespace(vocab_size=size - 2, type_vocab_size=0)
    whole = {"train": split([1, 2]), "validation": split([3]), "test": split([4])}
    check_tokens(run(), word_tokenizer(), whole, config)
    whole[name] = split([1, size - 2 + beyond])
    with pytest.raises(UserError, match=f"input_ids of the {name} split go up to"):
        check_tokens(run(), word_tokenizer(), whole, config)


def test_a_token_type_or_padding_beyond_the_embedding() -> None:
    config = SimpleNamespace(vocab_size=60, type_vocab_size=1)
    with pytest.raises(UserError, match="token_type_ids of the train split"):
        check_tokens(run(), word_tokenizer(), {"train": split([1], types=1)}, config)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = "<end>"
    small = SimpleNamespace(vocab_size=tokenizer.pad_token_id, type_vocab_size=0)
    with pytest.raises(UserError, match="its tokenizer pads with '<end>'"):
        check_tokens(run(), tokenizer, {"train": split([1])}, small)
    check_tokens(run(1), tokenizer, {"train": split([1])}, small)  # nothing is padded


def test_a_row_without_a_token_is_one_line() -> None:
    config = SimpleNamespace(vocab_size=60, type_vocab_size=0)
    with pytest.raises(UserError, match="1 rows of the train split have no token"):
        check_tokens(run(), word_tokenizer(), {"train": split([1], [])}, config)


def test_the_share_of_unknown_tokens_is_told() -> None:
    tokenizer = word_tokenizer()
    unknown = tokenizer.unk_token_id
    assert unknown_share(tokenizer, split([unknown, unknown, 9], [8])) == 0.5
    assert told({"unknown_share": 0.5}) == []
    assert told({"unknown_share": None}) == []
    assert "75% of the training texts' tokens are unknown" in told({"unknown_share": 0.75})[0]
    new = {"made_new": {"trained": ["classifier.weight"], "frozen": ["bert.pooler.dense.weight"]}}
    assert told(new) == [
        "model.name_or_path: bert.pooler.dense.weight are not in its files; drawn at random, and they "
        "do not train"
    ]


def test_no_end_of_text_token_is_one_line() -> None:
    tokenizer = word_tokenizer()
    tokenizer.eos_token = None
    rows = Split(["a"], ["the film is"], None, [], ["a"], ["good"])
    with pytest.raises(UserError, match="no end-of-text token"):
        tokenize_completions(tokenizer, rows, 20, chat_template=True)


@pytest.mark.parametrize(("known", "code"), [(6, 0), (0, 2)])
def test_a_run_says_what_was_made_new_and_unknown(
    invoke: Invoke,
    tiny_overrides: list[str],
    hub_folder: Path,
    tmp_path: Path,
    known: int,
    code: int,
) -> None:
    """A random pooler, and texts of [UNK] alone, were not told."""
    folder = tmp_path / "model"
    shutil.copytree(hub_folder, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "pooler" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x", *WORDS[:known]]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer.json").unlink()
    overrides = [each for each in tiny_overrides if not each.startswith("model.name_or_path=")]
    outcome = invoke(
        *overrides,
        f"model.name_or_path={folder}",
        "svd_rank=3",
        "train.max_steps=2",
        "measure.eval_every=null",
    )
    assert outcome.code == code, outcome.err
    if code:
        assert "100% of the training texts' tokens are unknown" in outcome.message[-1]
        assert "Traceback" not in outcome.err
        return
    record = json.loads(next(outcome.folder.rglob("record.json")).read_text())
    assert 0.5 < record["model"]["unknown_share"] < 0.9
    assert record["model"]["made_new"]["frozen"] == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
    ]
    assert record["model"]["padding"]["side"] == "right"
    said = " ".join(outcome.out.replace("│", " ").split())
    for words in ("of the training texts' tokens are unknown", "drawn at random"):
        assert words in said
        assert words in outcome.err
