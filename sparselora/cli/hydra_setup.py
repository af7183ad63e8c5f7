"""Tell Hydra what it must know before it composes: the schema, where sweeps lie, names for runs.

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
from sparselora.plugins import CONFIG_FOLDERS
from sparselora.search.config import register_search
from sparselora.search.sweeper import SearchSweeper


class SweepsSearchPath(SearchPathPlugin):
    """Let Hydra find `sweeps/`, and the config folders of plugins, from any working directory."""

    active = False
    """Whether it does: another Hydra application of the process looks in its own folders alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders behind those of the command."""
        for folder in (SWEEPS, *CONFIG_FOLDERS) if self.active else ():
            search_path.append("sparselora", f"file://{folder}")


def run_id() -> str:
    """Return local time and four random digits, so that two runs of one second differ."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def install() -> None:
    """Register with Hydra and OmegaConf what they must know before they compose."""
    SweepsSearchPath.active = True
    register_schema()
    register_search()
    for plugin in (SweepsSearchPath, SearchSweeper):
        Plugins.instance().register(plugin)
    OmegaConf.register_resolver("sparselora_run_id", run_id, use_cache=True, replace=True)
