"""A setting is one field: its range and where it has an effect are found from it."""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from sparselora.config.checks import check_model
from sparselora.config.effects import check_effects
from sparselora.config.groups import PROJECTIONS, DataConfig, TrainConfig
from sparselora.config.ranges import (
    at_least,
    check_ranges,
    device,
    one_of,
    path,
    positive,
    setting,
    share,
    some_of,
    walk,
)
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError
from sparselora.sparse.backbone.model_shape import ModelShape


def _no_gpu(run: RunConfig) -> str | None:
    return None if run.train.device == "cuda" else "train.device is no GPU"


WithStreams = make_dataclass(
    "WithStreams",
    [("streams", int, setting(2, at_least(1), idle=(_no_gpu,), sparse_only=True))],
    bases=(TrainConfig,),
)


def _run(**changes: Any) -> RunConfig:
    run = RunConfig(ffn_sparsity=0.0, sparse_warmup_ratio=0.0, seed=1, train=WithStreams(**changes))
    for group, name in (("task", "classification"), ("estimator", "svd"), ("schedule", "uniform")):
        getattr(run, group).name = name
    run.schedule.rule, run.compensation.name, run.svd_rank = "uniform", "none", 4
    run.model.name_or_path, run.data.path = "asset:minilm", "asset:critics"
    return run


def test_a_new_field_is_checked_by_what_stands_beside_it() -> None:
    check_ranges(_run())
    with pytest.raises(UserError, match=r"^train.streams=0: a finite number of at least 1"):
        check_ranges(_run(streams=0))
    check_effects(_run(), {"train.batch_size"})
    check_effects(_run(device="cuda"), {"train.streams"})
    with pytest.raises(
        WithoutEffectError, match=r"^train.streams=2: without effect, since train.dev"
    ):
        check_effects(_run(), {"train.streams"})
    shape = ModelShape(num_layers=2, hidden_size=64, intermediate_size=128)
    check_model(_run(device="cuda"), shape, {"train.batch_size"})
    with pytest.raises(WithoutEffectError, match="since every layer is dense"):
        check_model(_run(device="cuda"), shape, {"train.streams"})


def test_hydra_takes_a_field_as_if_it_were_plain() -> None:
    @dataclass
    class Group:
        words: list[str] = setting(["a"], some_of(("a", "b")))
        sizes: dict[str, int] = setting({})
        data: DataConfig = setting(DataConfig)
        needed: int = setting(check=at_least(1))
        plain: int = field(default=3)

    node = OmegaConf.structured(Group)
    assert OmegaConf.missing_keys(node) == {"needed", "data.name", "data.path"}
    assert node.words == ["a"]
    node.words.append("b")
    assert Group().words == ["a"]
    with pytest.raises(Exception, match="could not be converted"):
        node.needed = "x"


def test_every_setting_is_walked_over_by_its_dotted_key() -> None:
    keys = [key for key, _, _ in walk(RunConfig())]
    assert {"train", "train.batch_size", "layer_sparsity", "data.max_length"} <= set(keys)
    assert keys.index("estimator") < keys.index("estimator.tokens")
    assert len(keys) == len(set(keys))


NOT_HOME = "~nobody-of-that-name/x"


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (at_least(2), [2, 7, None], [1, -1, float("inf")]),
        (positive, [0.1, None], [0.0, -1, float("inf"), float("nan")]),
        (share, [0.0, 0.99], [1.0, -0.1]),
        (one_of(("a", "b")), ["a"], ["c", ""]),
        (some_of(PROJECTIONS), [["key"], list(PROJECTIONS)], [[], ["key", "k"]]),
        (device, ["auto", "cpu", "cuda", "cuda:1"], ["gpu", "cuda:", "cpu:1", "cuda:x"]),
        (path, [None, "a.csv", "~/a"], ["", "  ", NOT_HOME]),
    ],
)
def test_a_range_takes_what_is_in_it_alone(check: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        check("k", value)
    for value in wrong:
        with pytest.raises(UserError, match=r"^k="):
            check("k", value)
