"""A model comes with a fresh adapter, and a head that is of the data's classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sparselora.model.load import load_model
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import tiny_config, word_tokenizer
from tests.model.checkpoints import (
    DECODERS,
    POSITIONS_OF_IDS,
    ROWS,
    TYPES,
    change_config,
    load,
    logits,
    refused,
    settings,
)


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


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_missing_map_to_the_vocabulary(copy: Callable[[str], Path], model_type: str) -> None:
    folder = copy(model_type)
    change_config(folder, tie_word_embeddings=False)
    refused(folder, "lm_head.weight", task="causal_lm")
    change_config(folder, tie_word_embeddings=True)
    model, _, notes = load(folder, task="causal_lm")
    assert notes["made_new"] == {"trained": [], "frozen": []}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("names", "kept"),
    [(["up", "down"], False), (["down", "up"], True), (["LABEL_0", "LABEL_1"], True)],
)
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "llama"])
def test_a_classifier_of_other_classes_is_made_new(
    tmp_path: Path, model_type: str, names: list[str], kept: bool
) -> None:
    """One of the same two labels in the other order began as the inverted classifier."""
    config = tiny_config(model_type)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    saved = transformers.AutoModelForSequenceClassification.from_config(config)
    saved.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)

    notes: dict[str, Any] = {}
    run = settings(tmp_path)
    model = load_model(run, ["down", "up"], 0, notes)
    theirs = dict(saved.named_parameters())
    ours = {
        name.replace("modules_to_save.default.", "").replace("base_model.model.", ""): parameter
        for name, parameter in model.named_parameters()
        if "original_module" not in name
    }
    outputs = [
        name
        for name in theirs
        if name.startswith(ARCHITECTURES[model_type].head) and theirs[name].shape[0] == 2
    ]
    assert outputs
    for name in outputs:
        assert torch.equal(ours[name], theirs[name]) == (kept or name.endswith("bias"))
    assert set(notes["made_new"]["trained"]) == (set() if kept else set(outputs))
