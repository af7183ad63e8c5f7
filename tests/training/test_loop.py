"""What the loop does at each step; found missing by changing the code and seeing no test fail."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparselora import sparsify
from sparselora.config.groups import LoraSettings, TrainConfig
from sparselora.errors import TrainingError
from sparselora.machine.lock import DeviceLock
from sparselora.model.load import lora_config
from sparselora.sparse.phases import Phases
from sparselora.training.loop import StepPlan, train_steps
from sparselora.training.stepper import Stepper
from tests.conftest import plain, tiny_batch, tiny_model

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


def test_lora_settings_reach_the_adapter() -> None:
    config = tiny_model("distilbert").get_base_model().config
    lora = lora_config(
        LoraSettings(r=3, alpha=7, dropout=0.2, projections=["query", "output"]), config
    )
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (3, 7, 0.2)
    assert set(lora.target_modules) == {"attention.q_lin", "attention.out_lin"}
    assert set(lora.modules_to_save) >= {"pre_classifier", "classifier"}


def test_rows_come_up_to_date_before_a_pause() -> None:
    plan = StepPlan(Phases.all_dense(7), eval_every=3, checkpoint_every=2)
    assert [step for step in range(1, 8) if plan.evaluates_after(step)] == [3, 6, 7]
    assert [step for step in range(1, 8) if plan.keeps_after(step)] == [2, 4, 6]
    assert [step for step in range(1, 8) if plan.pauses_after(step)] == [2, 3, 4, 6, 7]
    assert not any(StepPlan(Phases.all_dense(7), None).pauses_after(step) for step in range(1, 7))


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    model = tiny_model("bert")
    plan = StepPlan(Phases.all_dense(4), eval_every=None)
    stepper = Stepper(model, TrainConfig(), plan.total_steps, CPU)
    rows = train_steps(stepper, None, endless(), plan, DeviceLock(CPU))
    assert [next(rows).step, next(rows).step] == [1, 2]
    stepper.parameters[0].data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 3 of 4"):
        next(rows)


def test_rows_count_what_the_batches_hold() -> None:
    train = TrainConfig(gradient_accumulation_steps=2)
    plan = StepPlan(Phases.all_dense(2), eval_every=None)
    stepper = Stepper(tiny_model("bert"), train, plan.total_steps, CPU)
    rows = list(train_steps(stepper, None, endless(3), plan, DeviceLock(CPU), done=1))
    batch = tiny_batch(3)
    assert [row.step for row in rows] == [2]
    assert rows[0].examples == 2 * 3
    assert rows[0].tokens == 2 * int(batch["attention_mask"].sum())
    assert rows[0].padded_tokens == 2 * batch["attention_mask"].numel()
    assert (rows[0].dense_tokens, rows[0].head_positions) == (0, 0)
