"""Checkpoints of tiny models, to load and to spoil."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparselora.config.checks import parse_config
from sparselora.config.schema import RunConfig
from sparselora.data.batches import TokenizedSplit, collate
from sparselora.errors import UserError
from sparselora.model.load import load_model, load_tokenizer
from sparselora.sparse.backbone.architectures import ARCHITECTURES

TYPES = sorted(ARCHITECTURES)


DECODERS = [name for name in TYPES if ARCHITECTURES[name].head_on_every_token]


POSITIONS_OF_IDS = [name for name in TYPES if ARCHITECTURES[name].positions == "ids"]


WEIGHTS = "model.safetensors"


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
