import pytest
import torch

from sparselora.errors import UserError
from sparselora.machine.lock import DeviceLock
from sparselora.runs.setup import prepare, read_inputs, step_plan
from sparselora.training.adapters import adapter_state
from tests.runs.composed import composed

CPU = torch.device("cpu")


def test_epochs_become_optimizer_steps(tiny_overrides: list[str]) -> None:
    rest = [item for item in tiny_overrides if not item.startswith("train.max_steps")]
    accumulated = "train.gradient_accumulation_steps=3"
    run, sparsities = composed([*rest, "train.epochs=2", accumulated])
    # 17 rows are three batches of 8 in an epoch.
    assert step_plan(run, sparsities, 17).total_steps == 2
    assert step_plan(run, sparsities, 1).total_steps == 1
    run, sparsities = composed(tiny_overrides)
    assert step_plan(run, sparsities, 17).total_steps == 10


def test_plain_lora_has_dense_steps_alone(tiny_overrides: list[str]) -> None:
    plan = step_plan(*composed([*tiny_overrides, "experiment=dense"]), 17)
    assert plan.phases.sparse_steps == 0
    plan = step_plan(*composed([*tiny_overrides, "sparse_warmup_ratio=0.3"]), 17)
    assert plan.phases.sparse_steps == 7


def test_a_run_without_a_sparse_step_is_a_line(tiny_overrides: list[str]) -> None:
    rest = [item for item in tiny_overrides if not item.startswith("train.max_steps")]
    run, sparsities = composed([*rest, "train.epochs=1", "sparse_warmup_ratio=0.99"])
    with pytest.raises(UserError, match="leaves no sparse step among 3"):
        step_plan(run, sparsities, 17)


def test_a_model_follows_from_the_seed_alone(tiny_overrides: list[str]) -> None:
    run, sparsities = composed([*tiny_overrides, "estimator=static"])
    lock, seen = DeviceLock(CPU), []
    inputs = read_inputs(run, lock, splits=["train"])
    assert list(inputs.tokenized) == ["train"]
    states = []
    for _ in range(2):
        torch.rand(3)
        prepared = prepare(run, sparsities, inputs, CPU, lock, lambda: seen.append(inputs.notes))
        states.append(adapter_state(prepared.model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert prepared.sparsity is prepared.fitted.config
    assert prepared.fitted.calibration is not None
    assert prepared.kept == [round(37 * (1 - sparsity)) for sparsity in sparsities]
    assert "made_new" in seen[0]


def test_the_first_batches_are_the_first_of_more(tiny_overrides: list[str]) -> None:
    run, _ = composed(tiny_overrides)
    inputs = read_inputs(run, DeviceLock(CPU))
    few, more = inputs.batches(2), inputs.batches(4)
    assert (len(few), len(more)) == (2, 4)
    for one, other in zip(few, more, strict=False):
        assert all(torch.equal(one[name], other[name]) for name in one)
