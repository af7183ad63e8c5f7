"""What a sparse model is made of, checked at construction. No torch, no Hydra."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sparselora.errors import UserError
from sparselora.schedule import RULES


@dataclass(frozen=True)
class EstimatorKind:
    """A row of the table of estimators."""

    build: str
    """Name of the function in `sparselora.sparse.estimator` that makes one for a block."""
    has_rank: bool
    """Whether `svd_rank` means anything to it."""
    uses_tokens: bool
    """Whether it looks at hidden states, so that a sample of tokens means anything to it."""


ESTIMATORS = MappingProxyType(
    {
        "svd": EstimatorKind("svd_estimator", has_rank=True, uses_tokens=True),
        "random": EstimatorKind("random_estimator", has_rank=False, uses_tokens=False),
    }
)


def check_sparsity(key: str, value: float) -> None:
    """Raise a `UserError` that names `key` unless 0 ≤ value < 1."""
    if not isinstance(value, int | float) or math.isnan(value) or not 0.0 <= value < 1.0:
        raise UserError(
            f"{key}={_shown(value)}: a sparsity from 0 up to, not including, 1 is allowed"
        )


def check_at_least(key: str, value: float | None, least: float) -> None:
    """Raise a `UserError` that names `key` unless it is null or a finite number ≥ least."""
    if value is not None and not (math.isfinite(value) and value >= least):
        raise UserError(f"{key}={_shown(value)}: a finite number of at least {least:g} is allowed")


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a `UserError` that names `key` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}={value}: one of {', '.join(allowed)} is allowed")


def _shown(value: object) -> str:
    # As it stands on a command line.
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, int | float) else repr(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class SparsityConfig:
    """How the FFN blocks of a model are made sparse while it trains.

    Raises:
        UserError: a value out of its range, at construction. `svd_rank` against the model's own
            sizes and `layer_sparsity` against its layers are checked by `sparsify`.
    """

    ffn_sparsity: float = 0.65
    """Share of channels left out, in [0, 1): see `sparselora.schedule.layer_sparsities`."""
    layer_sparsity: Mapping[str, float] = field(default_factory=dict)
    """Layer pattern → sparsity, for the layers that differ."""
    rule: str = "uniform"
    """How layers that no pattern names are filled: uniform, ramp, explicit."""
    svd_rank: int | None = 8
    """Rank of the estimate of lin1, from 1 to min(hidden_size, intermediate_size)."""
    estimator: str = "svd"
    """What scores the channels: a name of `ESTIMATORS`."""
    estimator_tokens: int | None = 128
    """How many tokens of a batch are scored, evenly spaced over the real ones; None scores all."""
    seed: int = 0
    """Seed of estimators that draw."""

    def __post_init__(self) -> None:
        check_sparsity("ffn_sparsity", self.ffn_sparsity)
        for pattern, value in self.layer_sparsity.items():
            if not isinstance(pattern, str):
                raise UserError(
                    f"layer_sparsity: {pattern!r}: a pattern such as 'layer.0' is allowed"
                )
            check_sparsity(f"layer_sparsity.{pattern}", value)
        check_choice("schedule.rule", self.rule, RULES)
        check_choice("estimator.name", self.estimator, tuple(ESTIMATORS))
        if ESTIMATORS[self.estimator].has_rank and not _is_count(self.svd_rank):
            raise UserError(
                f"svd_rank={_shown(self.svd_rank)}: a whole number from 1 to "
                "min(hidden_size, intermediate_size) is allowed"
            )
        if self.estimator_tokens is not None and not _is_count(self.estimator_tokens):
            raise UserError(
                f"estimator.tokens={_shown(self.estimator_tokens)}: a whole number of at least 1, or "
                "null for all tokens, is allowed"
            )

    def check_rank(self, hidden_size: int, intermediate_size: int) -> None:
        """Raise a `UserError` where `svd_rank` is over what lin1, (f, d), has."""
        largest = min(hidden_size, intermediate_size)
        if (
            ESTIMATORS[self.estimator].has_rank
            and self.svd_rank is not None
            and self.svd_rank > largest
        ):
            raise UserError(
                f"svd_rank={self.svd_rank}: this model's lin1 is {intermediate_size} × "
                f"{hidden_size}, so a whole number from 1 to {largest} is allowed"
            )
