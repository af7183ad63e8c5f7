"""Lay weights so that channels are gathered by rows, and save them as they were."""

from collections.abc import Iterable
from typing import Any

from torch import nn


class RowsInMemory:
    """Lay weights whose columns are gathered transposed, so that all gathers read whole rows.

    A parameter keeps its shape and its values; only the strides change. A state dict holds them as they
    were before: safetensors takes no other.
    """

    def __init__(self) -> None:
        self._layers: list[nn.Module] = []
        self._hooks: list[Any] = []

    def lay(self, layers: Iterable[nn.Module]) -> None:
        """Lay the weights of these linear layers transposed."""
        for linear in layers:
            weight = linear.get_parameter("weight")
            if not weight.is_contiguous():
                continue  # laid so already, here or by another
            self._hooks.append(linear.register_state_dict_post_hook(_save_contiguous))
            self._layers.append(linear)
            weight.data = weight.data.t().contiguous().t()

    def give_back(self) -> None:
        """Lay all of them as they were."""
        for hook in self._hooks:
            hook.remove()
        for linear in self._layers:
            weight = linear.get_parameter("weight")
            weight.data = weight.data.contiguous()
        self._hooks, self._layers = [], []


def _save_contiguous(
    linear: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any
) -> None:
    weight = state_dict.get(f"{prefix}weight")
    if weight is not None and not isinstance(weight, nn.Parameter):
        state_dict[f"{prefix}weight"] = weight.contiguous()
