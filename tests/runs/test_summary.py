import pytest

from sparselora import sparsify
from sparselora.data.batches import TokenizedSplit
from sparselora.data.load import LoadedData
from sparselora.data.splits import Split
from sparselora.runs import summary
from sparselora.sparse.phases import Phases
from sparselora.training.loop import StepPlan, StepRow
from tests.conftest import plain, tiny_batch, tiny_model


def row(step: int, phase: str, milliseconds: float) -> StepRow:
    return StepRow(step, phase, 0.7, 1e-3, 2.0, 8, 10 * step, 16 * step, 0, 0, milliseconds)


ROWS = [row(1, "dense", 100.0), row(2, "sparse", 10.0), row(3, "sparse", 30.0)]


def test_phases_are_never_mixed() -> None:
    plan = StepPlan(Phases(total_steps=6, dense_start=1), None)
    steps = summary.of_steps(ROWS, plan)
    assert (steps.planned, steps.planned_dense, steps.dense, steps.sparse) == (6, 1, 1, 2)
    times = summary.of_times(ROWS)
    assert (times.dense.steps, times.dense.p50, times.dense.mean) == (1, 100.0, 100.0)
    assert (times.sparse.steps, times.sparse.p50) == (2, 20.0)
    assert summary.of_times(ROWS[:1]).sparse.p50 is None
    tokens = summary.of_tokens(ROWS)
    assert (tokens.real, tokens.padded) == (60, 96)


def test_sparsity_is_counted_in_the_calls() -> None:
    assert summary.of_sparsity(None).layers == []
    model = tiny_model("bert")
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    assert summary.of_sparsity(handle).realised_mean is None
    model.train()(**tiny_batch())
    counted = summary.of_sparsity(handle)
    assert counted.mean == counted.realised_mean == pytest.approx(0.5, abs=0.02)
    assert [layer.intermediate_size for layer in counted.layers] == [37] * 3


def test_parameters_are_those_that_train_and_all() -> None:
    model = tiny_model("bert")
    counted = summary.of_parameters(model)
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    assert counted.total == sum(size for size, _ in sizes)
    assert counted.trained == sum(size for size, trains in sizes if trains)


def test_data_are_summed_up_by_split() -> None:
    split = Split(["a", "b", "c"], ["x"] * 3, None, [1, 0, 1], ["f", "f", "g"])
    tokens = [{"input_ids": [1] * length} for length in (2, 3, 7)]
    data = LoadedData(
        {"train": split, "validation": split}, ["no", "yes"], {"no text": 2}, ("odd",)
    )
    tokenized = {"train": TokenizedSplit(tokens, [1, 0, 1], 1)}
    found = summary.of_data(data, tokenized)
    assert found.rows == {"train": 3, "validation": 3}
    assert found.groups == {"train": 2, "validation": 2}
    assert (found.dropped_rows, found.dropped, found.notes) == (2, {"no text": 2}, ["odd"])
    assert found.label_map == {"0": "no", "1": "yes"}
    assert found.majority_share == pytest.approx(2 / 3)
    assert (found.mean_tokens, found.cut_completions) == (4.0, {"train": 1})
