"""A short name for a setting, for tables."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparselora.schema import RunConfig

_SHAPING = {"svd_rank", "ffn_sparsity", "sparse_warmup_ratio", "schedule", "estimator"}


def describe(
    run: "RunConfig", sparsities: Sequence[float], experiment: str | None, keys: Collection[str]
) -> str:
    """The experiment's name where the user changed nothing of it, else the settings."""
    changed = [key for key in keys if key in _SHAPING or key.startswith(("layer_", "estimator."))]
    if experiment is not None and not changed:
        return experiment
    if not any(sparsities):
        return "dense"
    mean = sum(sparsities) / len(sparsities)
    rank = "" if run.svd_rank is None else f" rank {run.svd_rank}"
    return f"{run.schedule.name} {mean:.3g} {run.estimator.name}{rank}"
