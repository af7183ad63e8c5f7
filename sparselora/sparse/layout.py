"""How weights lie in memory while channels are gathered from them, and how they are saved."""

from collections.abc import Iterable
from typing import Any

from torch import nn


class RowsInMemory:
    """Weights whose columns are gathered lie transposed, so that all gathers read whole rows.

    A parameter keeps its shape and its values; only the strides change. A state dict holds them as they
    were before: safetensors takes no other.
    """

    def __init__(self) -> None:
        self._weights: list[nn.Parameter] = []
        self._hooks: list[Any] = []

    def lay(self, maps: Iterable[nn.Module]) -> None:
        """Lay the weights of these maps so."""
        for linear in maps:
            weight = linear.get_parameter("weight")
            if any(weight is each for each in self._weights):
                continue
            if not weight.is_contiguous():
                continue  # as another laid it
            self._hooks.append(linear.register_state_dict_post_hook(_save_contiguous))
            self._weights.append(weight)
            weight.data = weight.data.t().contiguous().t()

    def give_back(self) -> None:
        """Lay them as they were."""
        for hook in self._hooks:
            hook.remove()
        for weight in self._weights:
            weight.data = weight.data.contiguous()
        self._hooks, self._weights = [], []


def _save_contiguous(
    linear: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any
) -> None:
    weight = state_dict.get(f"{prefix}weight")
    if weight is not None and not isinstance(weight, nn.Parameter):
        state_dict[f"{prefix}weight"] = weight.contiguous()
