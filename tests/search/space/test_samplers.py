from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparselora.cli import hydra_setup
from sparselora.errors import UserError
from sparselora.paths import CONF
from sparselora.search.space.samplers import check_sampler, sampler_factory, samplers_taken
from sparselora.search.space.space import Space
from tests.search.space.checks import PARAMS, check

FLAT = {"svd_rank": "4,8", "ffn_sparsity": "0.5,0.6"}


def test_samplers_that_model_all_parameters_want_a_flat_space() -> None:
    hydra_setup.install()

    def settings(sampler: str, *named: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF)):
            config = compose(
                "config",
                [
                    "hydra/sweeper=search",
                    f"hydra/sweeper/sampler={sampler}",
                    "hydra.sweeper.study_name=s",
                ],
                return_hydra_config=True,
            )
        return dict(config.hydra.sweeper) | {"named": named}

    conditional = Space.parse(PARAMS, [])
    flat = Space.parse({"svd_rank": "4,8", "ffn_sparsity": "0.5,0.6"}, [])
    for sampler in ("tpe", "random"):
        check_sampler(settings(sampler, "dense"), conditional, check)
    for sampler in ("nsgaii", "gp", "grid"):
        with pytest.raises(
            UserError, match=f"sampler={sampler}: .* has no effect in some.*tpe or random"
        ):
            check_sampler(settings(sampler), conditional, check)
        check_sampler(settings(sampler), flat, check)
    with pytest.raises(UserError, match=r"gp: .*named=\[\]"):
        check_sampler(settings("gp", "dense"), flat, check)
    with pytest.raises(UserError, match=r"CmaEs.* is not for this search"):
        check_sampler(settings("cmaes"), flat, check)


def test_a_sampler_is_made_for_each_seed() -> None:
    sampler = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler"})
    make, size = sampler_factory(sampler, Space.parse(FLAT, []))
    assert size > 10**6

    def first(seed: int) -> float:
        return optuna.create_study(sampler=make(seed)).ask().suggest_float("x", 0, 1)

    assert first(1) == first(1) != first(2)


def test_a_grid_has_as_many_settings_as_its_choices_multiply_to() -> None:
    grid = OmegaConf.create({"_target_": "optuna.samplers.GridSampler", "_partial_": True})
    make, size = sampler_factory(grid, Space.parse(FLAT | {"seed": "1,2,3"}, []), seed=1)
    assert size == 12
    assert isinstance(make(5), optuna.samplers.GridSampler)
    with pytest.raises(UserError, match="ranges with steps"):
        sampler_factory(grid, Space.parse({"ffn_sparsity": "interval(0,0.5)"}, []))


def test_a_seed_of_the_samplers_own_is_refused() -> None:
    settings = {"named": [], "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 3}}
    with pytest.raises(UserError, match=r"sampler\.seed=3: without effect"):
        check_sampler(settings, Space.parse(FLAT, []), check)


def test_samplers_are_listed_by_what_they_can_model() -> None:
    flat, conditional = Space.parse(FLAT, []), Space.parse(PARAMS, [])
    assert samplers_taken({"named": []}, flat, check) == ["tpe", "random", "grid", "gp", "nsgaii"]
    assert samplers_taken({"named": ["dense"]}, flat, check) == ["tpe", "random", "grid"]
    assert samplers_taken({"named": []}, conditional, check) == ["tpe", "random"]
