"""Tell how long a row can be: the positions that a model can use, by its config."""

from typing import Any

from sparselora.model.tokenizer import padding_id
from sparselora.sparse.backbone.lookup import get_architecture


def usable_positions(config: Any) -> int | None:
    """Return how many tokens a row may have; None where the model sets no limit."""
    row = get_architecture(config)
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is None or not getattr(config, "position_biased_input", True):
        return None  # distances alone, however long the row
    if row.positions == "ids":
        return longest - (padding_id(config) or 0) - 1  # the first tokens' ids stand for padding
    if row.rotary:
        return max(longest, _lengthened(config))
    return longest


def _lengthened(config: Any) -> int:
    """Return what the scaling of rotary positions makes of the length that was trained; 0 without it."""
    scaling = getattr(config, "rope_parameters", None) or {}
    before, factor = (scaling.get(name) for name in ("original_max_position_embeddings", "factor"))
    if isinstance(before, int) and isinstance(factor, int | float):
        return int(before * factor)
    return 0
