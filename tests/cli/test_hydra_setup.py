import re

from hydra import compose, initialize_config_dir

from sparselora.cli.hydra_setup import install, run_id
from sparselora.paths import CONF

RUN_ID = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{4}"


def test_two_runs_of_one_second_differ() -> None:
    names = {run_id() for _ in range(20)}
    assert len(names) > 1
    assert all(re.fullmatch(RUN_ID, name) for name in names)


def test_it_may_be_installed_twice_and_sweeps_are_found_from_anywhere() -> None:
    install()
    install()
    with initialize_config_dir(str(CONF)):
        config = compose("config", ["+sweep=tradeoff"], return_hydra_config=True)
        assert config.hydra.sweeper.study_name == "tradeoff"
