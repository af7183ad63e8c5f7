"""Checked settings without a command line."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir

from sparselora.config.schema import RunConfig, register_schema
from sparselora.paths import CONF
from sparselora.runs.checks import check_shape, parse_job, user_keys


def composed(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
    """Return the settings that overrides ask for, and the sparsity of each layer."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", list(overrides), return_hydra_config=True)
    run = parse_job(config, overrides)
    return run, check_shape(run, user_keys(overrides))
