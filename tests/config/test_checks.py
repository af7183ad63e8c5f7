"""Every file under conf/ and sweeps/ composes, and presets mean what they say."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sparselora.cli import hydra_setup
from sparselora.config.checks import check_model, is_dense, parse_config
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.paths import CONF, SWEEPS
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.backbone.model_shape import ModelShape
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.ffn_estimators import build_estimator
from sparselora.sparse.estimators import ESTIMATORS
from tests.conftest import plain, tiny_batch, tiny_model

MINILM = ModelShape(num_layers=6, hidden_size=384, intermediate_size=1536)


def composed(*overrides: str) -> DictConfig:
    hydra_setup.install()
    with initialize_config_dir(str(CONF)):
        return compose("config", list(overrides))


def parsed(*overrides: str) -> RunConfig:
    return parse_config(composed(*overrides), {line.split("=")[0] for line in overrides})


OPTIONS = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_composes_and_passes_its_checks(option: Path) -> None:
    needs_path = option.parent.name == "data" and "path: ???" in (CONF / option).read_text()
    extra = ["data.path=mine.csv"] if needs_path else []
    run = parsed(f"{option.parent}={option.stem}", *extra)
    check_model(run, MINILM)
    first_line = (CONF / option).read_text().splitlines()
    assert any(line.startswith("# ") for line in first_line) or option.parent.name == "measure"


@pytest.mark.parametrize("sweep", sorted(SWEEPS.glob("sweep/*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_composes_and_sets_only_hydras_keys(sweep: Path) -> None:
    composed(f"+sweep={sweep.stem}")
    content = OmegaConf.load(sweep)
    assert set(content) <= {"hydra", "defaults"}
    for entry in content.get("defaults", []):
        assert all(str(key).startswith("override /hydra/") for key in entry)


def test_the_default_run() -> None:
    run = parsed()
    assert (run.model.name, run.data.name, run.schedule.name) == ("minilm", "critics", "ramp")
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (8, 16, 0.05)
    assert run.lora.projections == ["query", "key", "value", "output"]
    assert (run.train.batch_size, run.train.max_steps) == (32, 312)
    assert run.train.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("name", "rank", "sparsity", "layers", "warmup"),
    [
        ("original", 8, 0.5, [0.0, 0.2, 0.3, 0.5, 0.6, 0.7], 0.1),
        ("optimized", 4, 0.75, [0.4, 0.5, 0.6, 0.8, 0.9, 0.95], 0.2),
        ("fallback", 4, 0.65, [0.3, 0.4, 0.5, 0.7, 0.8, 0.9], 0.2),
    ],
)
def test_named_settings_to_the_letter(
    name: str, rank: int, sparsity: float, layers: list[float], warmup: float
) -> None:
    run = parsed(f"experiment={name}")
    assert run.svd_rank == rank
    assert run.ffn_sparsity == sparsity
    assert check_model(run, MINILM) == layers
    assert run.sparse_warmup_ratio == warmup
    assert (run.estimator.name, run.estimator.weighted, run.estimator.every) == ("svd", False, 1)
    assert run.compensation.name == "none"
    assert (run.sparse_rampup_ratio, run.sparse_cooldown_ratio) == (0, 0)
    assert (run.train.batch_size, run.train.learning_rate) == (32, 1e-3)
    study = parsed(f"experiment={name}", "train=study")
    assert (study.train.batch_size, study.train.learning_rate) == (16, 2e-4)
    assert study.svd_rank == rank


def test_an_experiment_on_another_schedule_keeps_its_mean_and_rank() -> None:
    run = parsed("experiment=optimized", "schedule=ramp")
    sparsities = check_model(run, MINILM)
    assert sum(sparsities) / 6 == pytest.approx(0.75)
    assert sparsities == sorted(sparsities)
    assert (run.svd_rank, run.sparse_warmup_ratio) == (4, 0.2)


def test_one_layer_from_the_command_line() -> None:
    run = parsed("experiment=optimized", "layer_sparsity={layer.0: 0.1}")
    assert check_model(run, MINILM) == [0.1, 0.5, 0.6, 0.8, 0.9, 0.95]
    run = parsed("schedule=uniform", "layer_sparsity={layer.0: 0.1}", "ffn_sparsity=0.5")
    assert check_model(run, MINILM, {"ffn_sparsity"}) == [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_dense_is_plain_lora() -> None:
    run = parsed("experiment=dense")
    assert is_dense(run, check_model(run, MINILM))


def test_effect_is_judged_on_what_the_user_set() -> None:
    run = parsed("experiment=optimized", "estimator=random")
    assert run.svd_rank is None
    check_model(run, MINILM, {"experiment", "estimator"})
    with pytest.raises(UserError, match=r"ffn_sparsity=0\.75: without effect"):
        check_model(parsed("experiment=optimized"), MINILM, {"ffn_sparsity"})


def test_the_users_budget_wins_over_the_presets() -> None:
    run = parsed("train.epochs=2")
    assert (run.train.epochs, run.train.max_steps) == (2, None)
    run = parsed("train.max_steps=7")
    assert (run.train.epochs, run.train.max_steps) == (None, 7)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_its_function_and_its_file(name: str) -> None:
    config = plain(estimator=name, svd_rank=3 if ESTIMATORS[name].has_rank else None)
    model = tiny_model("bert")
    moments = calibrate(model, [tiny_batch()])
    x = torch.randn(5, 24)
    for block in find_blocks(model):
        scores = build_estimator(block, config, moments[block.name])(x)
        assert scores.shape == (37,)
        assert scores.isfinite().all()
    assert (CONF / "estimator" / f"{name}.yaml").is_file()
