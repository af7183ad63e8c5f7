"""The Hydra plugin behind `hydra/sweeper=search`. Light to import: Hydra loads it with every command."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Searches with Optuna; the work is in `sparselora.search.search`.

    Args:
        settings: the fields of `sparselora.search.config.SearchConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        from sparselora.search.search import Search

        Search(self.settings, self.hydra_context, self.task_function, self.config).run(arguments)
