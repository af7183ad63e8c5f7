"""Checkpoints mangled on purpose, of every architecture: the right result or one line, never silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sparselora.config.checks import parse_config
from sparselora.config.schema import RunConfig
from sparselora.data.batches import TokenizedSplit, collate
from sparselora.errors import UserError
from sparselora.model.load import load_model, load_model_config, load_tokenizer
from sparselora.model.positions import usable_positions
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import tiny_config, word_tokenizer

TYPES = sorted(ARCHITECTURES)
DECODERS = [name for name in TYPES if ARCHITECTURES[name].head_on_every_token]
POSITIONS_OF_IDS = [name for name in TYPES if ARCHITECTURES[name].positions == "ids"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each architecture: its backbone's weights and a tokenizer of words."""
    root, made = tmp_path_factory.mktemp("saved"), {}

    def save(model_type: str) -> Path:
        if model_type not in made:
            folder = root / model_type
            torch.manual_seed(0)
            config = tiny_config(model_type)
            transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(
                folder
            )
            word_tokenizer().save_pretrained(folder)
            made[model_type] = folder
        return made[model_type]

    return save


@pytest.fixture
def copy(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """One that a test may spoil."""
    return lambda model_type: Path(shutil.copytree(saved(model_type), tmp_path / model_type))


def settings(folder: Path, task: str = "classification") -> RunConfig:
    from hydra import compose, initialize_config_dir

    from sparselora.paths import CONF
    from sparselora.runs.checks import user_keys

    overrides = [f"task={task}", "model.name=tiny", f"model.name_or_path={folder}"]
    overrides += ["lora.projections=[query,key,value,output]", "train.device=cpu"]
    if task == "causal_lm":
        overrides += ["data=table", "data.path=x.csv", "data.prompt_template='{a}'"]
        overrides += ["data.completion_template='{b}'"]
    with initialize_config_dir(str(CONF), version_base=None):
        return parse_config(compose("config", overrides), user_keys(overrides))


def load(folder: Path, labels: int = 3, task: str = "classification") -> tuple[Any, Any, dict]:
    notes: dict[str, Any] = {}
    run = settings(folder, task)
    tokenizer = load_tokenizer(run.model, notes)
    torch.manual_seed(1)
    names = [str(label) for label in range(labels)] if task == "classification" else []
    model = load_model(run, names, tokenizer.pad_token_id, notes)
    return model.eval(), tokenizer, notes


def refused(folder: Path, *words: str, **how: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, **how)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    for word in ("model.name_or_path", *words):
        assert word in message, message
    return message


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def layer_keys(weights: dict[str, Any], model_type: str) -> list[str]:
    return sorted(key for key in weights if f"{ARCHITECTURES[model_type].layers}.1." in key)


def logits(model: Any, tokenizer: Any, rows: list[list[int]]) -> torch.Tensor:
    features = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    split = TokenizedSplit(features, [0] * len(rows))
    batch = collate(tokenizer, split, list(range(len(rows))))
    batch.pop("labels")
    with torch.no_grad():
        return model(**batch).logits


ROWS = [[7, 8, 9, 10, 11, 12, 13], [9, 8, 14], [15, 7, 20, 21]]


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


@pytest.mark.parametrize(
    "changes",
    [
        {"problem_type": "regression"},
        {"problem_type": "multi_label_classification"},
        {"return_dict": False},
        {"torchscript": True},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"gradient_checkpointing": True},
        {"pad_token_id": 1},
        {"num_labels": 7},
        {"dtype": "float16"},
        {"use_cache": True},
    ],
    ids=lambda changes: "-".join(changes),
)
@pytest.mark.parametrize("model_type", TYPES)
def test_fields_of_the_task_change_nothing(
    copy: Callable[[str], Path], model_type: str, changes: dict[str, Any]
) -> None:
    folder = copy(model_type)
    model, tokenizer, _ = load(folder)
    if "pad_token_id" in changes and model_type in POSITIONS_OF_IDS:
        pytest.skip("the model's own: see below")
    expected = logits(model, tokenizer, ROWS)
    change_config(folder, **changes)
    model, tokenizer, _ = load(folder)
    assert torch.allclose(logits(model, tokenizer, ROWS), expected, atol=1e-6)
    labels = torch.tensor([0])
    loss = model(input_ids=torch.tensor(ROWS[:1]), labels=labels).loss
    cross_entropy = torch.nn.functional.cross_entropy(expected[:1], labels)
    assert float(loss) == pytest.approx(float(cross_entropy), abs=1e-4)


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


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_missing_map_to_the_vocabulary(copy: Callable[[str], Path], model_type: str) -> None:
    folder = copy(model_type)
    change_config(folder, tie_word_embeddings=False)
    refused(folder, "lm_head.weight", task="causal_lm")
    change_config(folder, tie_word_embeddings=True)
    model, _, notes = load(folder, task="causal_lm")
    assert notes["made_new"] == {"trained": [], "frozen": []}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_no_token_to_pad_with(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    refused(folder, "neither a pad token nor an end-of-text token")


@pytest.mark.parametrize("model_type", TYPES)
def test_every_usable_position_is_one(saved: Callable[[str], Path], model_type: str) -> None:
    config = load_model_config(settings(saved(model_type)).model)
    limit = usable_positions(config)
    assert limit == (
        None
        if model_type == "deberta-v2" and not config.position_biased_input
        else 128 - {"mpnet": 2}.get(model_type, 1 if model_type in POSITIONS_OF_IDS else 0)
    )
    model, tokenizer, _ = load(saved(model_type))
    logits(model, tokenizer, [[7] * (limit or 128)])
    if limit is not None and not ARCHITECTURES[model_type].rotary:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            logits(model, tokenizer, [[7] * (limit + 1)])
