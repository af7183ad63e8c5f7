from dataclasses import fields

from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from sparselora.cli import hydra_setup
from sparselora.paths import CONF
from sparselora.search.config import NAMED, TARGET, SearchConfig
from sparselora.search.sweeper import SearchSweeper


def composed(*overrides: str) -> object:
    hydra_setup.install()
    with initialize_config_dir(str(CONF)):
        lines = ["hydra/sweeper=search", *overrides]
        return compose("config", lines, return_hydra_config=True).hydra.sweeper


def test_hydra_knows_the_search_by_its_name() -> None:
    sweeper = OmegaConf.to_container(composed("hydra.sweeper.n_trials=3"))  # type: ignore[arg-type]
    assert isinstance(sweeper, dict)
    assert get_class(str(sweeper["_target_"])) is SearchSweeper
    assert sweeper["_target_"] == TARGET
    assert sweeper["n_trials"] == 3
    assert sweeper["sampler"]["_target_"] == "optuna.samplers.TPESampler"
    assert set(sweeper) | {"defaults"} == {field.name for field in fields(SearchConfig)}


def test_named_settings_are_experiments() -> None:
    for name in NAMED:
        assert (CONF / "experiment" / f"{name}.yaml").is_file()
