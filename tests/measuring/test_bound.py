from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.config.schema import RunConfig
from sparselora.measuring.bound import Shape, add_bound, of_flops, run_speedup, shapes_of
from sparselora.measuring.dimensions import kept_of
from sparselora.sparse.phases import Phases
from sparselora.training.loop import StepRow
from tests.config.test_checks import parsed
from tests.conftest import tiny_batch, tiny_model

TIMING: Mapping[str, Any] = {"stock_dense_ms": 100.0, "dense_speedup": 1.25, "speedup": 2.0}


def test_a_runs_speedup_by_hand() -> None:
    # 10 steps of 100 ms in stock; here 4 dense ones of 80, 6 sparse ones of 50, and 0.28 s before.
    phases = Phases.of_ratios(10, warmup=0.4, rampup=0.0, cooldown=0.0)
    assert run_speedup(TIMING, phases, 0.28) == pytest.approx(1000 / (4 * 80 + 6 * 50 + 280))


@given(
    warmup=st.floats(0.0, 0.45),
    cooldown=st.floats(0.0, 0.45),
    rampup=st.floats(0.0, 0.9),
    seconds=st.floats(0.0, 5.0),
)
def test_a_run_is_never_faster_than_its_fastest_step(
    warmup: float, cooldown: float, rampup: float, seconds: float
) -> None:
    phases = Phases.of_ratios(200, warmup, rampup * (1 - warmup - cooldown), cooldown)
    found = run_speedup(TIMING, phases, seconds)
    assert found <= TIMING["speedup"] + 1e-9
    assert run_speedup(TIMING, phases, seconds + 1) < found


def half(*overrides: str) -> RunConfig:
    fixed = ("schedule=uniform", "ffn_sparsity=0.5", "estimator=svd", "svd_rank=3")
    return parsed(*fixed, *overrides)


def row(**sizes: int) -> StepRow:
    values = dict.fromkeys(StepRow.__dataclass_fields__, 0) | sizes
    return StepRow(**values)


def test_shapes_are_of_one_forward_pass() -> None:
    step = row(examples=8, padded_tokens=8 * 21, dense_tokens=30, head_positions=12)
    assert shapes_of([step], 1) == [Shape(8, 21, 30, 12)]
    assert shapes_of([step], 2) == [Shape(4, 21, 15, 6)]


def test_the_bound_is_of_the_same_count_dense_and_sparse() -> None:
    model = tiny_model("bert")
    run, dense, kept = half(), kept_of(model, [0.0] * 3), kept_of(model, [0.5] * 3)
    shapes = [Shape(4, 9, 0, 0), Shape(2, 7, 0, 0)]
    assert of_flops(model, run, kept, []) is None
    plain = of_flops(model, run, dense, shapes)
    sparse = of_flops(model, run, kept, shapes)
    assert plain is not None
    assert sparse is not None
    assert (plain["bound"], plain["sparse"], plain["gather_bytes"]) == (1.0, None, 0)
    assert sparse["dense"] == plain["dense"]
    assert sparse["bound"] == sparse["dense"]["total"] / sparse["sparse"]["total"] > 1
    one, other = (of_flops(model, run, kept, [shape]) for shape in shapes)
    assert one is not None
    assert other is not None
    mean = (one["sparse"]["total"] + other["sparse"]["total"]) / 2
    assert sparse["sparse"]["total"] == pytest.approx(mean, abs=5)


def test_a_choice_that_is_kept_for_several_steps_costs_less() -> None:
    model = tiny_model("bert")
    kept, shapes = kept_of(model, [0.5] * 3), [Shape(4, 9, 0, 0)]
    costs = []
    for every in (1, 4):
        flops = of_flops(model, half(f"estimator.every={every}"), kept, shapes)
        assert flops is not None
        costs.append((flops["sparse"]["estimator"], flops["gather_bytes"]))
    assert costs[0][0] == pytest.approx(4 * costs[1][0], rel=0.01)
    assert costs[0][1] == pytest.approx(4 * costs[1][1], rel=0.01)


@pytest.mark.parametrize("own", [None, 1.2])
def test_efficiency_is_our_dense_over_sparse_by_the_bound(own: float | None) -> None:
    model = tiny_model("bert")
    timing: dict[str, Any] = {"own_speedup": own}
    batches: list[dict[str, torch.Tensor]] = [tiny_batch(4, 9)]
    flops = add_bound(timing, model, half(), kept_of(model, [0.5] * 3), batches)
    assert timing["bound"] == flops["bound"]
    assert timing["efficiency"] == (None if own is None else own / flops["bound"])
