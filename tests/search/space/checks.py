"""The checks of a command, for MiniLM's sizes, and a conditional space."""

import functools
from collections.abc import Sequence

from hydra import compose, initialize_config_dir

from sparselora.cli import hydra_setup
from sparselora.config.checks import check_model, parse_config
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.paths import CONF
from sparselora.runs.checks import user_keys
from sparselora.sparse.backbone.model_shape import ModelShape

MINILM = ModelShape(num_layers=6, hidden_size=384, intermediate_size=1536)
PARAMS = {
    "svd_rank": "4,8",
    "ffn_sparsity": "range(0.4,0.81,0.1)",
    "compensation.rank": "4,8",
    "schedule": "ramp,optimized",
    "estimator": "svd,static",
    "compensation": "none,lowrank",
}


@functools.cache
def checked(overrides: tuple[str, ...]) -> tuple[RunConfig, list[float]] | UserError:
    hydra_setup.install()
    keys = user_keys(overrides)
    try:
        with initialize_config_dir(str(CONF)):
            run = parse_config(compose("config", list(overrides)), keys)
        return run, check_model(run, MINILM, keys)
    except UserError as error:
        return error


def check(overrides: Sequence[str]) -> tuple[RunConfig, list[float]]:
    answer = checked(tuple(overrides))
    if isinstance(answer, UserError):
        raise answer
    return answer
