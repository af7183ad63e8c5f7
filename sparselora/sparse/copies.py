"""Copy what modules of a model hold with the whole model alone."""

import copy
from typing import Any

from torch import nn


class CopiedWithModel:
    """Follow a copy of the whole model, and be None in a copy of one of its modules.

    PEFT copies single modules (`modules_to_save`), and so may a user: such a copy is one of the original.
    """

    called: nn.Module | None = None
    """The module that is called with the batch; None before it is known."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.called is not None and id(self.called) not in memo:
            return None
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made
