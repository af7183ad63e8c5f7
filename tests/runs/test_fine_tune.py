"""The main job, end to end, on a tiny model and table."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer

from sparselora.runs import timing as timing_module
from sparselora.runs.job import run_job
from sparselora.training import stepper as train_module
from tests.conftest import Outcome
from tests.runs.composed import composed

Invoke = Callable[..., Outcome]


def test_one_run_leaves_everything(invoke: Invoke, tiny_overrides: list[str]) -> None:
    outcome = invoke(*tiny_overrides, "svd_rank=3", "ffn_sparsity=0.5", "measure.test=true")
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    assert record["status"] == "completed"
    assert record["schema_version"] == 1
    assert record["label"] == "ramp 0.5 whitened rank 3"
    assert record["steps"] == {"planned": 10, "planned_dense": 1, "dense": 1, "sparse": 9}
    assert record["step_time_ms"]["dense"]["steps"] == 1
    assert record["step_time_ms"]["sparse"]["p10"] <= record["step_time_ms"]["sparse"]["p90"]
    assert record["sparsity"]["realised_mean"] == pytest.approx(0.5, abs=0.01)
    assert [layer["name"] for layer in record["sparsity"]["layers"]] == [
        f"layer.{index}" for index in range(6)
    ]
    validation = {"step", "sparse_steps", "accuracy", "f1", "loss"}
    assert set(record["metrics"]["validation"]) == validation
    assert record["metrics"]["test"]["step"] == record["metrics"]["best_validation"]["step"]
    assert record["data"]["label_map"] == {"0": "down", "1": "up"}
    assert record["config"]["svd_rank"] == 3
    assert "svd_rank=3" in record["overrides"]
    assert record["peak_memory_mb"] > 0
    assert {"commit", "dirty"} == set(record["provenance"]["git"])
    for key in ("boot_id", "pid", "process_start", "host", "threads", "device", "versions"):
        assert record["provenance"][key] is not None
    (folder,) = (outcome.folder / "outputs" / "runs").iterdir()
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 11))
    assert [row["phase"] for row in rows] == ["dense"] + ["sparse"] * 9
    assert all(int(row["tokens"]) <= int(row["padded_tokens"]) for row in rows)
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert predictions.groupby(["split", "step"]).size().to_dict() == {
        ("validation", 5): record["data"]["rows"]["validation"],
        ("validation", 10): record["data"]["rows"]["validation"],
        ("test", record["metrics"]["test"]["step"]): record["data"]["rows"]["test"],
    }
    last = predictions[(predictions["split"] == "validation") & (predictions["step"] == 10)]
    right = [
        logits.argmax() == label for logits, label in zip(last.logits, last.label, strict=True)
    ]
    assert sum(right) / len(right) == record["metrics"]["validation"]["accuracy"]
    assert set(last.group) <= {f"film {index}" for index in range(30)}
    assert (
        not list(folder.rglob("*.bin")) + list(folder.rglob("*.pkl")) + list(folder.rglob("*.pt"))
    )
    for word in ("validation accuracy", "dense phase", "sparse phase", "realised", "peak memory"):
        assert word in outcome.out
    assert str(folder.name) in outcome.out


def test_adapter_is_an_ordinary_peft_checkpoint(invoke: Invoke, tiny_overrides: list[str]) -> None:
    outcome = invoke(*tiny_overrides, "svd_rank=3", "train.keep_checkpoints=all")
    assert outcome.code == 0, outcome.err
    (folder,) = (outcome.folder / "outputs" / "runs").iterdir()
    record = json.loads((folder / "record.json").read_text())
    predictions = pd.read_parquet(folder / "predictions.parquet")
    lines = pd.read_csv(record["config"]["data"]["path"])
    for name in ("best", "last"):
        adapter = folder / "adapter" / name
        model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2).eval()
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        step = record["metrics"]["best_validation"]["step"] if name == "best" else 10
        expected = predictions[predictions["step"] == step].set_index("example_id")["logits"]
        for example_id, logits in itertools.islice(expected.items(), 8):
            text = lines.loc[int(str(example_id).split(":")[1]), "sentence"]
            got = model(**tokenizer(text, return_tensors="pt")).logits[0]
            torch.testing.assert_close(got.detach(), torch.tensor(logits), atol=1e-5, rtol=1e-4)


def test_same_seed_same_metrics(invoke: Invoke, tiny_overrides: list[str]) -> None:
    for seed in (3, 3, 4):
        assert invoke(*tiny_overrides, "svd_rank=3", f"seed={seed}").code == 0
    found = sorted(
        Path("outputs/runs").glob("*/record.json"), key=lambda path: path.stat().st_mtime
    )
    first, again, other = (json.loads(path.read_text()) for path in found)
    assert first["metrics"] == again["metrics"]
    assert first["config_hash"] == again["config_hash"] != other["config_hash"]
    losses = [
        [row["loss"] for row in csv.DictReader((path.parent / "metrics.csv").open())]
        for path in found
    ]
    assert losses[0] == losses[1] != losses[2]


def test_headline_grid_on_a_tiny_model(invoke: Invoke, tiny_overrides: list[str]) -> None:
    outcome = invoke(*tiny_overrides, "-m", "svd_rank=4,8", "ffn_sparsity=0.5,0.65,0.75")
    assert outcome.code == 0, outcome.err
    records = outcome.records()
    assert len(records) == 6
    cost: dict[int, set[int]] = {4: set(), 8: set()}
    for record in records:
        wanted = record["config"]["ffn_sparsity"]
        assert record["sparsity"]["realised_mean"] == pytest.approx(wanted, abs=0.01)
        cost[record["config"]["svd_rank"]].add(record["flops"]["sparse"]["estimator"])
    assert all(len(values) == 1 for values in cost.values())
    assert cost[8] == {2 * value for value in cost[4]}
    (table,) = outcome.folder.rglob("sweep.csv")
    frame = pd.read_csv(table)
    assert len(frame) == 6
    assert frame["accuracy"].is_monotonic_decreasing
    assert outcome.out.count("6 runs, best first") == 1
    # A sweep keeps the best adapter of each run alone.
    assert {path.name for path in outcome.folder.rglob("adapter/*")} == {"best"}


def test_sweep_table_sets_the_dense_run_beside_the_others(
    invoke: Invoke, tiny_overrides: list[str]
) -> None:
    outcome = invoke(*tiny_overrides, "-m", "experiment=dense,optimized", "train.max_steps=5")
    assert outcome.code == 0, outcome.err
    (table,) = outcome.folder.rglob("sweep.csv")
    frame = pd.read_csv(table).set_index("label")
    assert set(frame.index) == {"dense", "optimized"}
    difference = frame.loc["optimized", "accuracy"] - frame.loc["dense", "accuracy"]
    assert frame.loc["optimized", "delta_dense"] == pytest.approx(difference)
    assert frame.loc["dense", "realised_sparsity"] == 0.0
    assert pd.isna(frame.loc["dense", "ms_per_step_sparse"])


@pytest.mark.parametrize(
    ("name", "mean"), [("original", 0.383), ("optimized", 0.692), ("fallback", 0.600)]
)
def test_named_settings_reach_the_model(
    invoke: Invoke, tiny_overrides: list[str], name: str, mean: float
) -> None:
    outcome = invoke(*tiny_overrides, f"experiment={name}", "train.max_steps=6")
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    assert record["label"] == name
    # Eleven thirty-sevenths and the like: a tiny model rounds more coarsely than a real one.
    assert record["sparsity"]["realised_mean"] == pytest.approx(mean, abs=0.02)
    ratio = {"original": 0.1, "optimized": 0.2, "fallback": 0.2}[name]
    assert record["config"]["sparse_warmup_ratio"] == ratio
    assert record["config"]["svd_rank"] == (8 if name == "original" else 4)


def test_nan_loss_fails_and_names_the_step(
    invoke: Invoke, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_module.make_optimizer

    def explode(model: Any, *arguments: Any) -> Any:
        optimizer, scheduler = real(model, *arguments)
        step, calls = scheduler.step, itertools.count(1)

        def spoil() -> None:
            step()
            if next(calls) == 3:
                optimizer.param_groups[0]["params"][0].data.fill_(float("nan"))

        monkeypatch.setattr(scheduler, "step", spoil)
        return optimizer, scheduler

    monkeypatch.setattr(train_module, "make_optimizer", explode)
    outcome = invoke(*tiny_overrides, "svd_rank=3")
    assert outcome.code == 1
    assert "loss is nan at step 4 of 10 (sparse phase" in outcome.message[-1]
    assert "Traceback" not in outcome.err
    (record,) = outcome.records()
    assert record["status"] == "failed"
    assert "step 4" in record["error"]
    assert record["steps"]["sparse"] == 2


def test_a_failed_run_does_not_stop_the_sweep(invoke: Invoke, tiny_overrides: list[str]) -> None:
    outcome = invoke(*tiny_overrides, "-m", "train.learning_rate=1e30,1e-3", "svd_rank=3")
    assert outcome.code == 1
    assert [record["status"] for record in outcome.records()] == ["failed", "completed"]
    assert "2 runs, best first" in outcome.out
    (table,) = outcome.folder.rglob("sweep.csv")
    assert pd.read_csv(table)["status"].tolist() == ["completed", "failed"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_keeps_what_it_reached(
    tmp_path: Path, tiny_overrides: list[str], sent: signal.Signals
) -> None:
    arguments = [*tiny_overrides, "svd_rank=3", "train.max_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sparselora.run", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        text=True,
        # A shell that starts the tests in the background makes all below it ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("adapter/best")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    (path,) = tmp_path.rglob("record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "interrupted"
    assert record["ended"] is not None
    assert record["steps"]["sparse"] + record["steps"]["dense"] >= 5
    assert record["metrics"]["validation"]["step"] >= 5
    assert {folder.name for folder in (path.parent / "adapter").iterdir()} >= {"best", "last"}


def test_a_run_is_timed_after_training(invoke: Invoke, tiny_overrides: list[str]) -> None:
    kept = [line for line in tiny_overrides if not line.startswith("measure.timing")]
    few = ["measure.min_rounds=3", "measure.max_rounds=3", "measure.batches=2"]
    outcome = invoke(*kept, *few, "-m", "experiment=dense,optimized", "measure.timing=both")
    assert outcome.code == 0, outcome.err
    dense, optimized = outcome.records()
    assert optimized["timing"]["rounds"] == optimized["timing_before"]["rounds"] == 3
    # Both are set against the one figure for stock that the sweep's first run left.
    assert dense["dense_reference_ms"] == optimized["dense_reference_ms"]
    assert dense["dense_reference_ms"] == dense["timing"]["stock_dense_ms"]
    for record in (dense, optimized):
        expected = record["dense_reference_ms"] / record["timing"]["speedup"]
        assert record["ms_per_step"] == pytest.approx(expected)
    timing = optimized["timing"]
    assert timing["efficiency"] == pytest.approx(timing["own_speedup"] / timing["bound"])
    stock, calibration = timing["stock_dense_ms"], optimized["calibration_seconds"] * 1e3
    ours = calibration + 2 * stock / timing["dense_speedup"]
    ours += 8 * stock / timing["speedup"]
    assert optimized["run_speedup"] == pytest.approx(10 * stock / ours)
    assert "timed, interleaved" in outcome.out


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_timing_that_fails_leaves_the_run_completed(
    invoke: Invoke,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(timing_module, "measure", fail)
    kept = [line for line in tiny_overrides if not line.startswith("measure.timing")]
    outcome = invoke(*kept, "svd_rank=3")
    assert outcome.code == (130 if isinstance(error, KeyboardInterrupt) else 0)
    (record,) = outcome.records()
    assert record["status"] == "completed"
    assert record["metrics"]["validation"]["step"] == 10
    assert "out of memory" in record["timing_error"] or "interrupted" in record["timing_error"]


@pytest.mark.parametrize("timing", ["none", "both"])
def test_timing_changes_no_result(invoke: Invoke, tiny_overrides: list[str], timing: str) -> None:
    kept = [line for line in tiny_overrides if not line.startswith("measure.timing")]
    outcome = invoke(
        *kept,
        "svd_rank=3",
        f"measure.timing={timing}",
        "lora.dropout=0.1",
        *(["measure.max_rounds=3", "measure.min_rounds=3"] if timing == "both" else []),
    )
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    key = "sparselora_timing_test"
    losses = pd.read_csv(next(outcome.folder.rglob("metrics.csv")))["loss"].tolist()
    assert _SEEN.setdefault(key, (record["metrics"], losses)) == (record["metrics"], losses)


_SEEN: dict[str, Any] = {}


def test_epochs_and_accumulation(invoke: Invoke, tiny_overrides: list[str]) -> None:
    overrides = [line for line in tiny_overrides if not line.startswith("train.max_steps")]
    outcome = invoke(
        *overrides, "svd_rank=3", "train.epochs=1", "train.gradient_accumulation_steps=2"
    )
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    forward_passes = -(-record["data"]["rows"]["train"] // 8)
    assert record["steps"]["planned"] == round(forward_passes / 2)
    assert record["config"]["train"]["max_steps"] is None


def test_bf16(invoke: Invoke, tiny_overrides: list[str]) -> None:
    outcome = invoke(*tiny_overrides, "svd_rank=3", "train.precision=bf16")
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    assert record["config"]["train"]["precision"] == "bf16"
    assert record["metrics"]["validation"]["loss"] < 2


def test_random_weights_say_so_and_leave_no_adapter(
    invoke: Invoke, tiny_overrides: list[str], hub_folder: Path
) -> None:
    outcome = invoke(
        *tiny_overrides,
        "svd_rank=3",
        "model.random_init=true",
        "model.init_config={model_type: distilbert, dim: 24, hidden_dim: 37, n_heads: 4, n_layers: 6}",
        "train.max_steps=5",
    )
    assert outcome.code == 0, outcome.err
    assert "accuracy means nothing" in outcome.out
    assert not list(outcome.folder.rglob("adapter"))


def test_estimator_without_rank_records_null(invoke: Invoke, tiny_overrides: list[str]) -> None:
    outcome = invoke(
        *tiny_overrides, "experiment=optimized", "estimator=random", "train.max_steps=5"
    )
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    assert record["config"]["svd_rank"] is None
    assert record["label"] == "optimized 0.692 random"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_backbone_in_four_bits(invoke: Invoke, tiny_overrides: list[str], precision: str) -> None:
    pytest.importorskip("bitsandbytes")
    outcome = invoke(
        *tiny_overrides,
        *("model.quantization=nf4", f"train.precision={precision}", "estimator=static"),
        *(
            "compensation=lowrank",
            "schedule=calibrated",
            "ffn_sparsity=0.5",
            "measure.timing=after",
        ),
        *("measure.min_rounds=2", "measure.max_rounds=2"),
    )
    assert outcome.code == 0, outcome.err
    (record,) = outcome.records()
    assert record["status"] == "completed"
    assert record["sparsity"]["realised_mean"] == pytest.approx(0.5, abs=0.02)
    assert "timing_error" not in record
    plain = invoke(
        *tiny_overrides, "train.max_steps=1", "experiment=dense", "measure.eval_every=null"
    )
    assert plain.code == 0, plain.err
    assert record["parameters"] == plain.records()[-1]["parameters"]


def test_random_weights_in_four_bits(invoke: Invoke, tiny_overrides: list[str]) -> None:
    pytest.importorskip("bitsandbytes")
    llama = "{model_type:llama,hidden_size:32,intermediate_size:64,num_hidden_layers:2,"
    llama += "num_attention_heads:4,vocab_size:64}"
    outcome = invoke(
        *tiny_overrides,
        *("model.random_init=true", f"model.init_config={llama}", "model.quantization=nf4"),
        *("train.max_steps=2", "measure.eval_every=null", "ffn_sparsity=0.5"),
    )
    assert outcome.code == 0, outcome.err


def test_test_metrics_are_those_of_the_best_adapter(
    invoke: Invoke, tiny_overrides: list[str]
) -> None:
    # A learning rate that wrecks the model after a good start makes best and last differ.
    outcome = invoke(
        *tiny_overrides,
        "svd_rank=3",
        "measure.test=true",
        "train.learning_rate=0.05",
        "measure.eval_every=1",
        "seed=5",
    )
    assert outcome.code == 0, outcome.err
    (folder,) = (outcome.folder / "outputs" / "runs").iterdir()
    record = json.loads((folder / "record.json").read_text())
    best = record["metrics"]["best_validation"]["step"]
    if best == 10:
        pytest.fail("best and last are the same step; choose another seed")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    test = predictions[predictions["split"] == "test"]
    assert set(test["step"]) == {best}
    lines = pd.read_csv(Path(record["config"]["data"]["path"]))
    logits = {}
    for name in ("best", "last"):
        adapter = folder / "adapter" / name
        model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2).eval()
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        text = lines.loc[int(test["example_id"].iloc[0].split(":")[1]), "sentence"]
        logits[name] = model(**tokenizer(text, return_tensors="pt")).logits[0].detach()
    recorded = torch.tensor(test["logits"].iloc[0])
    torch.testing.assert_close(logits["best"], recorded, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits["last"], recorded, atol=1e-3)


def test_a_full_disk_leaves_what_was_reached(
    tmp_path: Path, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparselora.runs.keeper.save_adapter", fail)
    run, sparsities = composed([*tiny_overrides, "svd_rank=3"])
    with pytest.raises(OSError, match="No space left"):
        run_job(run, sparsities, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "failed"
    assert "No space left on device" in record["error"]
    assert record["steps"]["dense"] + record["steps"]["sparse"] == 5
    assert record["metrics"]["validation"]["step"] == 5
