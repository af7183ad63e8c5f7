"""What the library takes where nothing is said, and by name, is what the command takes."""

import itertools
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from sparselora.cli import hydra_setup
from sparselora.config.checks import parse_config
from sparselora.errors import UserError
from sparselora.paths import CONF
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.named_settings import names
from sparselora.sparse.patch import sparsify
from tests.conftest import tiny_batch, tiny_model

GROUPS = {"schedule": "rule", "estimator": "estimator", "compensation": "compensation"}


def of_the_command(*overrides: str) -> SparsityConfig:
    hydra_setup.install()
    with initialize_config_dir(str(CONF)):
        return parse_config(compose("config", list(overrides))).sparsity


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_defaults() -> None:
    assert SparsityConfig() == of_the_command()
    assert SparsityConfig().estimator == "whitened"  # neither side is empty


@pytest.mark.parametrize("name", options("experiment"))
def test_every_named_setting(name: str) -> None:
    assert name in names()
    assert SparsityConfig.named(name) == of_the_command(f"experiment={name}")


@pytest.mark.parametrize(
    ("estimator", "compensation"),
    itertools.product(options("estimator"), options("compensation")),
)
@pytest.mark.parametrize("rule", ["uniform", "ramp", "deeper", "calibrated"])
@pytest.mark.parametrize("name", [None, "best", "optimized"])
def test_choices_bring_what_their_files_say(
    name: str | None, estimator: str, compensation: str, rule: str
) -> None:
    given = {"estimator": estimator, "compensation": compensation, "rule": rule}
    overrides = [f"{group}={given[field]}" for group, field in GROUPS.items()]
    if name is None:
        assert SparsityConfig(**given) == of_the_command(*overrides)  # type: ignore[arg-type]
        return
    overrides.append(f"experiment={name}")
    assert SparsityConfig.named(name, **given) == of_the_command(*overrides)


def test_a_value_that_is_given_stands() -> None:
    both = SparsityConfig(svd_rank=4, ffn_sparsity=0.75)
    assert both == of_the_command("svd_rank=4", "ffn_sparsity=0.75")
    config = SparsityConfig(estimator="oracle", estimator_tokens=64, estimator_weighted=False)
    assert (config.estimator_tokens, config.estimator_weighted) == (64, False)
    named = SparsityConfig.named("best", compensation_rank=4, layer_sparsity={}, rule="uniform")
    assert (named.compensation_rank, named.layer_sparsity, named.rule) == (4, {}, "uniform")
    assert named.sparse_rampup_ratio == 0.4
    # 0, False and None are values too.
    zero = SparsityConfig(sparse_warmup_ratio=0, estimator_tokens=None, seed=0)
    assert (zero.sparse_warmup_ratio, zero.estimator_tokens, zero.seed) == (0, None, 0)
    assert replace(SparsityConfig(), estimator="static").svd_rank == 8


def test_what_two_of_them_hold_is_not_shared() -> None:
    first = SparsityConfig.named("optimized")
    first.layer_sparsity["layer.0"] = 0.1  # type: ignore[index]
    assert SparsityConfig.named("optimized").layer_sparsity["layer.0"] == 0.4


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"named\('bset'\): must be one of best, dense, "):
        SparsityConfig.named("bset")


def test_three_lines_make_a_model_sparse() -> None:
    model = tiny_model("bert")
    with pytest.raises(UserError, match="calibration"):
        sparsify(model, SparsityConfig(svd_rank=4))
    handle = sparsify(model, SparsityConfig(svd_rank=4), calibrate(model, [tiny_batch()]))
    assert handle.config.estimator == "whitened"
