"""What the loop does at each step; found missing by changing the code and seeing no test fail."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from torch import Tensor
from transformers import AutoTokenizer

from sparselora import sparsify
from sparselora.config.groups import LoraSettings, TrainConfig
from sparselora.machine.lock import DeviceLock
from sparselora.model.causal_lm import completion_loss
from sparselora.model.load import lora_config
from sparselora.sparse.channels.tokens import IGNORED
from sparselora.sparse.phases import Phases
from sparselora.training.loop import StepPlan, train_steps
from sparselora.training.stepper import Stepper
from tests.conftest import Outcome, plain, tiny_batch, tiny_model
from tests.sparse.channels.test_tokens import completions, tiny_decoder

CPU = torch.device("cpu")


def endless(rows: int = 4) -> Iterator[dict[str, Tensor]]:
    while True:
        yield tiny_batch(rows)


def test_dense_start_then_sparse_counted_in_the_calls() -> None:
    model = tiny_model("bert")
    config = plain(svd_rank=3, ffn_sparsity=0.6, sparse_warmup_ratio=3 / 7)
    handle = sparsify(model, config)
    train = TrainConfig(gradient_accumulation_steps=2)
    plan = StepPlan(Phases(total_steps=7, dense_start=3), eval_every=None)
    calls = []
    for row in train_steps(
        Stepper(model, train, plan.total_steps, CPU), handle, endless(), plan, DeviceLock(CPU)
    ):
        calls.append((row.phase, [ffn.calls for ffn in handle._sparse.values()]))
    assert [phase for phase, _ in calls] == ["dense"] * 3 + ["sparse"] * 4
    # Two forward passes a step, and none of them sparse in the dense phase.
    assert [counts for _, counts in calls] == [[2 * max(0, step - 3)] * 3 for step in range(1, 8)]


def test_accumulated_gradients_are_those_of_the_joined_batch() -> None:
    batch = tiny_batch(8, padded=False)
    halves = [
        {name: tensor[part] for name, tensor in batch.items()} for part in (slice(3), slice(3, 8))
    ]
    after = []
    for micro_batches in ([batch], halves):
        model = tiny_model("bert").double()
        stepper = Stepper(model, TrainConfig(lr_warmup_ratio=0.0), 10, CPU)
        loss, norm, _ = stepper.step(micro_batches)
        after.append((loss, norm, [p.detach().clone() for p in stepper.parameters]))
    torch.testing.assert_close(after[0], after[1])


def test_accumulated_completions_weigh_by_their_tokens() -> None:
    """A mean of means over unlike numbers of completion tokens would be another loss."""
    batch = completions()
    halves = [
        {name: value[part] for name, value in batch.items()} for part in (slice(1), slice(1, 4))
    ]
    labelled = [int((half["labels"] != IGNORED).sum()) for half in halves]
    assert labelled[0] * 3 != labelled[1]
    after = []
    for micro_batches in ([batch], halves):
        for loss_of in (None, completion_loss):
            model = tiny_decoder("llama").double()
            stepper = Stepper(model, TrainConfig(lr_warmup_ratio=0.0), 10, CPU, loss_of)
            loss, norm, _ = stepper.step(micro_batches)
            after.append((loss, norm, [p.detach().clone() for p in stepper.parameters]))
    for other in after[1:]:
        torch.testing.assert_close(after[0], other, rtol=1e-5, atol=1e-6)


def test_a_step_starts_from_no_gradient() -> None:
    model = tiny_model("bert")
    stepper = Stepper(model, TrainConfig(), 10, CPU)
    stepper.step([tiny_batch()])
    assert all(parameter.grad is None for parameter in stepper.parameters)


def test_step_equals_a_loop_written_out() -> None:
    train = TrainConfig(learning_rate=0.01, max_grad_norm=0.1, lr_warmup_ratio=0.5)
    ours = tiny_model("bert").double()
    theirs = copy.deepcopy(ours)
    stepper = Stepper(ours, train, 4, CPU)
    parameters = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=train.weight_decay)
    for step in range(4):
        stepper.step([tiny_batch()])
        # Linear warm-up over two of four steps, then linear decay to 0.
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step / 2 if step < 2 else (4 - step) / 2)
        optimizer.zero_grad()
        theirs.train()(**tiny_batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
    for ours_parameter, theirs_parameter in zip(stepper.parameters, parameters, strict=True):
        torch.testing.assert_close(ours_parameter, theirs_parameter)


def test_lora_settings_reach_the_adapter() -> None:
    config = tiny_model("distilbert").get_base_model().config
    lora = lora_config(
        LoraSettings(r=3, alpha=7, dropout=0.2, projections=["query", "output"]), config
    )
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (3, 7, 0.2)
    assert set(lora.target_modules) == {"attention.q_lin", "attention.out_lin"}
    assert set(lora.modules_to_save) >= {"pre_classifier", "classifier"}


def test_test_metrics_are_those_of_the_best_adapter(
    invoke: Callable[..., Outcome], tiny_overrides: list[str]
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
