"""A study is held to the settings that decide what its trials come to, and to no others."""

from types import SimpleNamespace
from typing import Any

import pytest

from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.search.study.held import check_study


class _Study:
    trials: tuple[Any, ...] = ()
    plan = SimpleNamespace(name="s")

    def __init__(self, **attributes: Any) -> None:
        self.attributes = attributes

    def guard(self, name: str, value: Any, problem: Any) -> Any:
        held = self.attributes.setdefault(name, value)
        message = problem(held) if held != value else ""
        if message:
            raise UserError(message)
        return held

    def bound_objectives(self) -> list[str]:
        return []


def _check(study: _Study, **changes: Any) -> None:
    run = RunConfig(ffn_sparsity=0.5, sparse_warmup_ratio=0.1, seed=1)
    for key, value in changes.items():
        group, _, name = key.rpartition("__")
        setattr(getattr(run, group) if group else run, name, value)
    space: Any = SimpleNamespace(distributions={})
    floor = {"min_accuracy": None, "max_drop": None}
    check_study(study, space, run, floor, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"train__checkpoint_every": 5},
        {"train__resume": "x"},
        {"bench__seq_len": 64},
        {"tags": ["a"]},
    ],
    ids=str,
)
def test_what_decides_no_outcome_may_change(change: dict[str, Any]) -> None:
    study = _Study()
    _check(study)
    _check(study, **change)
    study = _Study()
    _check(study, **change)
    _check(study)


def test_a_study_of_before_that_holds_such_a_key_goes_on() -> None:
    study = _Study()
    _check(study)
    study.attributes = {
        name: values | {"bench.seq_len": 64, "train.resume": "x"}
        for name, values in study.attributes.items()
    }
    _check(study)


@pytest.mark.parametrize(
    "change",
    [
        {"train__learning_rate": 0.5},
        {"measure__eval_rows": 5},
        {"seed": 2},
        {"layer_sparsity": {"a": 0.1}},
    ],
    ids=str,
)
def test_what_decides_the_outcome_may_not(change: dict[str, Any]) -> None:
    study = _Study()
    _check(study)
    with pytest.raises(UserError, match="the study 's' was begun with"):
        _check(study, **change)
