"""Every position that a model is said to have can be used, and no further one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from sparselora.model.load import load_model_config
from sparselora.model.positions import usable_positions
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import Outcome
from tests.model.checkpoints import POSITIONS_OF_IDS, TYPES, load, logits, settings

Invoke = Callable[..., Outcome]


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


def test_a_model_with_few_positions_needs_no_shorter_length(
    invoke: Invoke, tiny_overrides: list[str], hub_folder: Path, tmp_path: Path
) -> None:
    """data.max_length=128, which nobody had asked for, was refused."""
    folder = tmp_path / "model"
    shutil.copytree(hub_folder, folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = 24
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    given = [each for each in tiny_overrides if not each.startswith("model.name_or_path=")]
    given += [f"model.name_or_path={folder}", "svd_rank=3", "train.max_steps=2"]
    given += ["measure.eval_every=null"]
    outcome = invoke(*given)
    assert outcome.code == 0, outcome.err
    record = json.loads(next(outcome.folder.rglob("record.json")).read_text())
    assert record["config"]["data"]["max_length"] == 24
    outcome = invoke(*given, "data.max_length=25")
    assert outcome.code == 2
    assert "data.max_length=25: this model has 24 positions" in outcome.message[-1]
