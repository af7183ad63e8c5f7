"""Say what a sparse model is made of, checked at construction. No torch, no Hydra."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from sparselora.errors import UserError
from sparselora.plugins import load_plugins
from sparselora.sparse.estimators import ESTIMATORS, EstimatorKind
from sparselora.sparse.named_settings import settings
from sparselora.sparse.phases import Phases
from sparselora.sparse.schedule import RULES, layer_sparsities
from sparselora.sparse.validate import (
    check_choice,
    check_phases,
    check_sparsity,
    is_count,
    shown,
)

TOKENS = ("all", "context")
SCOPES = ("per_head", "all_heads")
COMPENSATIONS = ("none", "mean", "lowrank")


class _OfTheCommand:
    """Stand for a field that is not given."""

    def __repr__(self) -> str:
        return "<as the command>"


_COMMAND: Any = _OfTheCommand()


@dataclass(frozen=True)
class SparsityConfig:
    """Say how the FFN blocks and attention of a model are made sparse while it trains.

    A field that is not given is what `python -m sparselora.run` takes (the files of `conf/`): at present
    the estimator `whitened` at rank 8, the rule `ramp` at 0.65, and a tenth of the steps dense at the
    start. `rule`, `estimator` and `compensation` bring what their own files say: `estimator="svd"` is not
    weighted, `estimator="oracle"` looks at all tokens, as in the command.

    Raises:
        UserError: a value out of its range, at construction. `svd_rank` against the model's own
            sizes and `layer_sparsity` against its layers are checked by `sparsify`.
    """

    ffn_sparsity: float = _COMMAND
    """Share of channels left out, in [0, 1): see `sparselora.sparse.schedule.layer_sparsities`."""
    layer_sparsity: Mapping[str, float] = _COMMAND
    """Layer pattern → sparsity, for the layers that differ."""
    rule: str = _COMMAND
    """How layers that no pattern names are filled: uniform, ramp, explicit, calibrated."""
    svd_rank: int | None = _COMMAND
    """Rank of the estimate of lin1, from 1 to min(hidden_size, intermediate_size)."""
    estimator: str = _COMMAND
    """What scores the channels: a name of `ESTIMATORS`."""
    estimator_tokens: int | None = _COMMAND
    """How many tokens of a batch are scored, see `sample_tokens`; None scores all."""
    estimator_weighted: bool = _COMMAND
    """Whether a channel's score is multiplied by the norm of its column of lin2."""
    estimator_every: int = _COMMAND
    """Calls of the model from one choice of channels to the next; a kept choice costs no gather."""
    compensation: str = _COMMAND
    """What stands in for the channels left out: a name of `COMPENSATIONS`."""
    compensation_rank: int = _COMMAND
    """Rank of the linear map that `lowrank` compensation fits, from 1 to hidden_size."""
    qk_sparsity: float = _COMMAND
    """Share of the channels of query and key left out, in [0, 1), spread over layers as the rule says;
    by a rule that names layers, or measures them, the same in each."""
    vo_sparsity: float = _COMMAND
    """Share of the channels of value and output left out, likewise."""
    layer_qk_sparsity: Mapping[str, float] = _COMMAND
    """Layer pattern → `qk_sparsity`, for the layers that differ."""
    layer_vo_sparsity: Mapping[str, float] = _COMMAND
    """Layer pattern → `vo_sparsity`, for the layers that differ."""
    attention_scope: str = _COMMAND
    """Whether each head of keys keeps as many channels, or the best of all heads are kept."""
    tokens: str = _COMMAND
    """Which tokens are computed sparsely: all, or context alone, see `channels.tokens`."""
    sink_tokens: int = _COMMAND
    """With `context`: how many of a sequence's first tokens stay dense too."""
    sparse_warmup_ratio: float = _COMMAND
    """Share of the steps that run dense at the start; see `SparsityHandle.set_step`."""
    sparse_rampup_ratio: float = _COMMAND
    """Share of the steps in which sparsity then rises to its full value; 0 switches at once."""
    sparse_cooldown_ratio: float = _COMMAND
    """Share of the steps that run dense again at the end."""
    seed: int = _COMMAND
    """Seed of estimators that draw."""

    def __post_init__(self) -> None:
        if isinstance(self.estimator, str) and self.estimator not in ESTIMATORS:
            load_plugins()
        self._take_from_the_command()
        check_sparsity("ffn_sparsity", self.ffn_sparsity)
        check_sparsity("qk_sparsity", self.qk_sparsity)
        check_sparsity("vo_sparsity", self.vo_sparsity)
        for key in ("layer_sparsity", "layer_qk_sparsity", "layer_vo_sparsity"):
            for pattern, value in getattr(self, key).items():
                if not isinstance(pattern, str):
                    raise UserError(f"{key}: {pattern!r}: a pattern such as 'layer.0' is allowed")
                check_sparsity(f"{key}.{pattern}", value)
        check_choice("attention_scope", self.attention_scope, SCOPES)
        check_choice("schedule.rule", self.rule, RULES)
        check_choice("estimator.name", self.estimator, tuple(ESTIMATORS))
        if ESTIMATORS[self.estimator].has_rank and not is_count(self.svd_rank):
            raise UserError(
                f"svd_rank={shown(self.svd_rank)}: a whole number from 1 to "
                "min(hidden_size, intermediate_size) is allowed"
            )
        if self.sparsifies_attention and ESTIMATORS[self.estimator].build_attention is None:
            raise UserError(
                f"estimator={self.estimator}: scores no channels of attention; qk_sparsity and "
                "vo_sparsity of 0 alone are allowed with it"
            )
        if self.estimator_tokens is not None and not is_count(self.estimator_tokens):
            raise UserError(
                f"estimator.tokens={shown(self.estimator_tokens)}: a whole number of at least 1, or "
                "null for all tokens, is allowed"
            )
        if not is_count(self.estimator_every):
            raise UserError(
                f"estimator.every={shown(self.estimator_every)}: a whole number of at least 1 is "
                "allowed"
            )
        check_choice("tokens", self.tokens, TOKENS)
        if not isinstance(self.sink_tokens, int) or self.sink_tokens < 0:
            raise UserError(
                f"sink_tokens={self.sink_tokens}: a whole number of at least 0 is allowed"
            )
        check_choice("compensation.name", self.compensation, COMPENSATIONS)
        if not is_count(self.compensation_rank):
            raise UserError(
                f"compensation.rank={shown(self.compensation_rank)}: a whole number from 1 to "
                "hidden_size is allowed"
            )
        check_phases(self.sparse_warmup_ratio, self.sparse_rampup_ratio, self.sparse_cooldown_ratio)

    @classmethod
    def named(cls, name: str, **given: Any) -> Self:
        """Return what `experiment=name` sets in the command.

        Args:
            name: of an experiment: dense, original, optimized, fallback, best and others.
            given: fields that are to differ, as other keys of that command would.

        Raises:
            UserError: an unknown name, or a value out of its range.
        """
        return cls(**_filled(name, given))

    def _take_from_the_command(self) -> None:
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {key: value for key, value in own.items() if value is not _COMMAND}
        if len(given) < len(own):
            for key, value in _filled(None, given).items():
                object.__setattr__(self, key, value)

    def of_ffn_alone(self) -> "SparsityConfig":
        """Return the config with dense attention and all tokens sparse, as error curves are measured."""
        return replace(
            self,
            qk_sparsity=0.0,
            vo_sparsity=0.0,
            layer_qk_sparsity={},
            layer_vo_sparsity={},
            tokens="all",
        )

    @property
    def sparsifies_attention(self) -> bool:
        """Return whether any layer's attention is sparse."""
        layers = [*self.layer_qk_sparsity.values(), *self.layer_vo_sparsity.values()]
        return any([self.qk_sparsity, self.vo_sparsity, *layers])

    def attention_sparsities(self, num_layers: int) -> list[tuple[float, float]]:
        """Return the sparsity of each layer's query and key, and of its value and output, in order.

        Raises:
            UserError: see `layer_sparsities`.
        """
        shares = []
        for name in ("qk", "vo"):
            share, named = (
                getattr(self, f"{name}_sparsity"),
                getattr(self, f"layer_{name}_sparsity"),
            )
            # Where nothing is asked of the others, named layers are all there is.
            rule = self.rule if share and self.rule in ("ramp", "deeper") else "uniform"
            try:
                shares.append(layer_sparsities(rule, num_layers, share, named))
            except UserError as error:
                text = str(error).replace("ffn_sparsity", f"{name}_sparsity")
                raise UserError(text.replace("layer_sparsity", f"layer_{name}_sparsity")) from None
        return list(zip(*shares, strict=True))

    @property
    def kind(self) -> EstimatorKind:
        """Return the row of `ESTIMATORS`."""
        return ESTIMATORS[self.estimator]

    @property
    def needs_calibration(self) -> bool:
        """Return whether `sparsify` has to be given calibration batches."""
        return (
            self.kind.needs_calibration or self.compensation != "none" or self.rule == "calibrated"
        )

    def phases(self, total_steps: int) -> Phases:
        """Return which steps of a run are dense, and how far sparsity has risen in the others."""
        return Phases.of_ratios(
            total_steps,
            self.sparse_warmup_ratio,
            self.sparse_rampup_ratio,
            self.sparse_cooldown_ratio,
        )

    def check_rank(self, hidden_size: int, intermediate_size: int) -> None:
        """Raise a `UserError` where a rank is over what lin1, (f, d), or compensation has."""
        largest = min(hidden_size, intermediate_size)
        if self.kind.has_rank and self.svd_rank is not None and self.svd_rank > largest:
            raise UserError(
                f"svd_rank={self.svd_rank}: this model's lin1 is {intermediate_size} × "
                f"{hidden_size}, so a whole number from 1 to {largest} is allowed"
            )
        if self.compensation == "lowrank" and self.compensation_rank > hidden_size:
            raise UserError(
                f"compensation.rank={self.compensation_rank}: this model's hidden_size is "
                f"{hidden_size}, so a whole number from 1 to {hidden_size} is allowed"
            )


def _filled(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    missing = tuple(field.name for field in fields(SparsityConfig) if field.name not in given)
    filled = {**settings(name, given, missing), **given}
    kind = ESTIMATORS.get(filled["estimator"])
    if kind is not None and not kind.has_rank and "svd_rank" not in given:
        filled["svd_rank"] = None
    return filled
