"""A run that was stopped and goes on ends as one that never stopped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sparselora.records.record import RunRecord
from tests.conftest import Outcome

SETTINGS = [
    ["experiment=dense"],
    ["estimator=svd", "svd_rank=4", "estimator.every=3", "sparse_warmup_ratio=0.2"],
    ["estimator=random", "sparse_rampup_ratio=0.3"],
    ["estimator=static", "compensation=lowrank", "sparse_cooldown_ratio=0.2"],
    ["train.gradient_accumulation_steps=2", "train.epochs=1"],
]
LINES = ["step", "phase", "loss", "learning_rate", "grad_norm", "examples", "tokens"]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = RunRecord.add_step

    def add_step(self: RunRecord, row: Any) -> None:
        original(self, row)
        if row.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "add_step", add_step)


def without_steps(overrides: Sequence[str], setting: Sequence[str]) -> list[str]:
    epochs = any(item.startswith("train.epochs") for item in setting)
    return [item for item in overrides if not (epochs and item.startswith("train.max_steps"))]


def test_a_model_of_fewer_positions_than_the_preset_is_resumed(
    invoke: Callable[..., Outcome], tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own length, which had come down to the model's, was compared with the preset's."""
    short = [
        "model.random_init=true",
        "model.init_config={model_type: bert, max_position_embeddings: 48}",
    ]
    common = [*tiny_overrides, *short, "train.checkpoint_every=3"]
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        assert invoke(*common, "hydra.run.dir=stopped").code == 130
    resumed = invoke(*common, "train.resume=stopped", "hydra.run.dir=resumed")
    assert resumed.code == 0, resumed.err
    record = json.loads((resumed.folder / "resumed" / "record.json").read_text())
    assert record["config"]["data"]["max_length"] == 48
    assert record["resumed_from"]["step"] == 3


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting[0])
def test_resumed_ends_like_one_never_stopped(
    invoke: Callable[..., Outcome],
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    setting: list[str],
) -> None:
    common = [*without_steps(tiny_overrides, setting), *setting, "train.checkpoint_every=3"]
    straight = invoke(*common, "hydra.run.dir=straight")
    assert straight.code == 0, straight.err
    with monkeypatch.context() as patched:
        stop_after(patched, 8)
        assert invoke(*common, "hydra.run.dir=stopped").code == 130
    assert (straight.folder / "stopped" / "checkpoint.pt").exists()
    path = straight.folder / "stopped" / "record.json"
    older = json.loads(path.read_text())
    del older["config"]["model"]["quantization"]  # which came later: what it lacks was the default
    path.write_text(json.dumps(older))
    resumed = invoke(*common, "train.resume=stopped", "hydra.run.dir=resumed")
    assert resumed.code == 0, resumed.err

    folders = [straight.folder / name for name in ("straight", "resumed")]
    first, second = (json.loads((folder / "record.json").read_text()) for folder in folders)
    assert second["resumed_from"] == {"folder": "stopped", "step": 6}
    for key in ("metrics", "evaluations", "steps", "tokens", "sparsity", "flops", "config_hash"):
        assert first[key] == second[key], key
    lines = [pd.read_csv(folder / "metrics.csv")[LINES] for folder in folders]
    pd.testing.assert_frame_equal(*lines, check_exact=True)
    answers = [pd.read_parquet(folder / "predictions.parquet") for folder in folders]
    pd.testing.assert_frame_equal(*answers, check_exact=True)
    for name in ("best", "last"):
        weights = [
            load_file(folder / "adapter" / name / "adapter_model.safetensors") for folder in folders
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not (folders[1] / "checkpoint.pt").exists()


def test_what_cannot_be_resumed_is_a_line(
    invoke: Callable[..., Outcome], tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        invoke(*tiny_overrides, "train.checkpoint_every=2", "hydra.run.dir=stopped")
    complete = invoke(*tiny_overrides, "hydra.run.dir=complete")

    def error(*extra: str) -> str:
        outcome = invoke(*tiny_overrides, *extra)
        assert outcome.code == 2
        assert not list(outcome.folder.glob("outputs/runs/*"))
        return outcome.message[-1]

    assert error("train.resume=none").startswith("error: train.resume=none: holds no checkpoint.pt")
    assert "that run is complete" in error("train.resume=complete")
    assert error("train.resume=stopped", "seed=9").startswith("error: seed=9: the run in train.res")
    assert error("train.resume=stopped", "train.learning_rate=1").startswith(
        "error: train.learning_rate=1.0: the run in train.resume=stopped had 0.001"
    )
    assert "leave out seeds=[1,2]" in error("train.resume=stopped", "seeds=[1,2]")
    path = Path(complete.folder / "stopped" / "checkpoint.pt")
    path.write_bytes(path.read_bytes()[:100])
    assert error("train.resume=stopped").endswith("checkpoint.pt cannot be read")
