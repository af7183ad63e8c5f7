"""Turn scores into the channels that are kept."""

from typing import NamedTuple

from torch import Tensor


class FFNChannels(NamedTuple):
    """Hold the channels of an FFN block that are kept."""

    indices: Tensor
    """(k,), sorted."""

    @property
    def kept(self) -> tuple[int, ...]:
        """Return how many there are."""
        return (len(self.indices),)


def select_ffn_channels(scores: Tensor, kept: int) -> Tensor:
    """Return the `kept` channels with the highest scores, sorted: gathers walk forward in memory.

    Args:
        scores: (f,), any real dtype.
        kept: how many, from 1 to f. A number of the host: the shape does not depend on the scores,
            so nothing waits for the device.

    Returns:
        (kept,) int64, ascending, on the device of `scores`.
    """
    if not 1 <= kept <= scores.numel():
        raise ValueError(f"kept={kept}: from 1 to {scores.numel()} channels can be kept")
    return scores.topk(kept, sorted=False).indices.sort().values
