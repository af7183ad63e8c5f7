"""What Hydra must know before it composes: the schema, where sweeps lie, and names for runs.

Light to import. `install` may be called as often as one likes.
"""

import secrets
from datetime import datetime

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from sparselora.config.schema import register_schema
from sparselora.paths import SWEEPS
from sparselora.search.config import register_search
from sparselora.search.sweeper import SearchSweeper


class SweepsSearchPath(SearchPathPlugin):
    """Lets `+sweep=NAME` find `sweeps/sweep/NAME.yaml` from any working directory."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("sparselora", f"file://{SWEEPS}")


def run_id() -> str:
    """Local time and four random digits, so that two runs of one second differ."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def install() -> None:
    """Register all of it with Hydra and OmegaConf."""
    register_schema()
    register_search()
    for plugin in (SweepsSearchPath, SearchSweeper):
        Plugins.instance().register(plugin)
    OmegaConf.register_resolver("sparselora_run_id", run_id, use_cache=True, replace=True)
