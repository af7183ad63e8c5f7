"""Plug searches into Hydra as `hydra/sweeper=search`.

Light to import: Hydra loads it with every command.
"""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Search with Optuna, as Hydra's sweeper; the work is in `sparselora.search.search`.

    Args:
        settings: the fields of `sparselora.search.config.SearchConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands to its sweepers."""
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Search until the study has its trials; see `sparselora.search.search.Search.run`."""
        from sparselora.search.search import Search

        Search(self.settings, self.hydra_context, self.task_function, self.config).run(arguments)
