"""Checkpoints mangled on purpose, of every architecture: the right result or one line, never silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import word_tokenizer
from tests.model.checkpoints import (
    ROWS,
    TYPES,
    WEIGHTS,
    change_config,
    change_weights,
    layer_keys,
    load,
    logits,
    refused,
)


@pytest.mark.parametrize("model_type", TYPES)
def test_whole_checkpoints_load_as_transformers_loads_them(
    saved: Callable[[str], Path], model_type: str
) -> None:
    model, tokenizer, notes = load(saved(model_type))
    assert notes["made_new"] == {"trained": [], "frozen": []}
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(saved(model_type))
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(logits(model, tokenizer, ROWS[:1]), expected, atol=1e-6)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "student."])
@pytest.mark.parametrize("model_type", TYPES)
def test_keys_of_other_names(copy: Callable[[str], Path], model_type: str, prefix: str) -> None:
    folder = copy(model_type)
    change_weights(folder, lambda old: {prefix + key: value for key, value in old.items()})
    message = refused(folder, "are not in its files")
    assert prefix in message


@pytest.mark.parametrize("model_type", TYPES)
def test_weights_dropped_resized_or_spoilt(copy: Callable[[str], Path], model_type: str) -> None:
    folder = copy(model_type)
    whole = load_file(folder / WEIGHTS)
    inside = layer_keys(whole, model_type)
    embeddings = max(whole, key=lambda key: (whole[key].shape[:1] == (60,), key))

    def spoil(key: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        changed = change(whole[key].clone())
        rest = {name: tensor for name, tensor in whole.items() if name != key}
        change_weights(folder, lambda _: rest | ({} if changed is None else {key: changed}))

    for key in (inside[0], inside[-1], embeddings):
        spoil(key, lambda _: None)
        refused(folder, "1 of the model's", key.split(".", 1)[1])
        spoil(key, lambda tensor: torch.cat([tensor, tensor]))
        refused(folder, "another size")
        for value in (float("nan"), float("inf"), float("-inf")):
            spoil(
                key,
                lambda tensor, value=value: (
                    tensor.flatten().index_fill(0, torch.tensor([1]), value).view_as(tensor)
                ),
            )
            refused(folder, "finite", key)


@pytest.mark.parametrize("model_type", TYPES)
def test_another_number_of_layers(copy: Callable[[str], Path], model_type: str) -> None:
    folder = copy(model_type)
    name = {"distilbert": "n_layers", "gpt2": "n_layer"}.get(model_type, "num_hidden_layers")
    config = json.loads((folder / "config.json").read_text())
    lists = [key for key in ("layer_types", "no_rope_layers") if config.get(key)]

    def ask(layers: int) -> None:
        longer = {key: (config[key] * 2)[:layers] for key in lists}
        change_config(folder, **{name: layers}, **longer)

    ask(4)
    refused(folder, "are not in its files")
    ask(2)
    refused(folder, "leave out")


@pytest.mark.parametrize("model_type", TYPES)
def test_heads_may_be_missing_or_of_another_size(
    copy: Callable[[str], Path], model_type: str
) -> None:
    folder = copy(model_type)
    model, tokenizer, notes = load(folder, labels=5)
    assert notes["made_new"]["trained"]
    assert not notes["made_new"]["frozen"]
    assert logits(model, tokenizer, ROWS).shape == (3, 5)
    base = transformers.AutoModel.from_pretrained(folder)
    whole = load_file(folder / WEIGHTS)
    shutil.rmtree(folder)
    base.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    model, _, notes = load(folder)
    assert notes["made_new"]["trained"]
    state = model.state_dict()
    (key, *_) = layer_keys(whole, model_type)
    plain = {name.replace(".base_layer", ""): value for name, value in state.items()}
    (same,) = (value for name, value in plain.items() if name.endswith(key))  # not made new
    assert torch.equal(same, whole[key])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad_token_id", [None, 0, 1, 2, -1, 1000])
@pytest.mark.parametrize("model_type", TYPES)
def test_a_row_alone_is_the_row_in_a_batch(
    copy: Callable[[str], Path], model_type: str, pad_token_id: int | None, side: str
) -> None:
    folder = copy(model_type)
    change_config(folder, pad_token_id=pad_token_id)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = "<eos>"
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": side}))
    if model_type in ("camembert", "roberta", "xlm-roberta") and pad_token_id not in (
        None,
        0,
        1,
        2,
    ):
        refused(folder)  # positions hang on an id that the tokenizer lacks
        return
    model, tokenizer, notes = load(folder)
    kept = side == "left" and ARCHITECTURES[model_type].pads_on_any_side
    assert notes["padding"]["side"] == ("left" if kept else "right")
    assert notes["padding"]["tokenizer_side"] == side
    batch = logits(model, tokenizer, ROWS)
    alone = torch.cat([logits(model, tokenizer, [row]) for row in ROWS])
    assert torch.allclose(batch, alone, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_files_that_are_not_what_they_say(copy: Callable[[str], Path], model_type: str) -> None:
    folder = copy(model_type)
    content = (folder / WEIGHTS).read_bytes()
    for cut in (0, 5, 100, len(content) // 2, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:cut])
        refused(folder, "cannot be loaded")
    (folder / WEIGHTS).unlink()
    refused(folder, "cannot be loaded")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    refused(folder, "cannot be loaded")
    (folder / "pytorch_model.bin").write_bytes(b"PK\3\4 nothing")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "cannot be loaded")
    (folder / "pytorch_model.bin").unlink()
    (folder / WEIGHTS).write_bytes(content)
    config = (folder / "config.json").read_text()
    for text in ("", "{", "[]", config[:-20]):
        (folder / "config.json").write_text(text)
        refused(folder)
    (folder / "config.json").write_text(config)
    name = next(
        name
        for name in ("hidden_act", "hidden_activation", "activation_function", "activation")
        if name in json.loads(config)
    )
    change_config(folder, **{name: "no_such_function"})
    refused(folder, "no_such_function")
    (folder / "config.json").write_text(config)
    tokenizer = (folder / "tokenizer.json").read_text()
    for text in ("", "{", tokenizer[: len(tokenizer) // 2]):
        (folder / "tokenizer.json").write_text(text)
        refused(folder)
