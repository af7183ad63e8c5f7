"""Draw settings from a conditional space, whose conditions are the rules of the config itself.

A key is drawn only where it would have an effect beside what was drawn before it, by the same rules that
refuse it on a command line. So `svd_rank` is drawn for estimators that have one, and no trial is spent on
two names for one setting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from sparselora.config.identity import shapes_sparsity
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError
from sparselora.search import compat
from sparselora.search.space.effective import Check, effective, has_effect, key_of, keys_of


@dataclass(frozen=True)
class Space:
    """Hold keys with their distributions, and the overrides that every setting has.

    Attributes:
        distributions: of the keys that are drawn, config groups first.
        fixed: overrides, as they stand on a command line.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: tuple[str, ...]

    @staticmethod
    def parse(params: Mapping[str, Any], arguments: Sequence[str]) -> "Space":
        """Read a space from a sweep file's `params` and the command line, whose keys win.

        Raises:
            UserError: a sweep that Optuna cannot draw from.
        """
        given = {key_of(argument) for argument in arguments}
        lines = [f"{key}={value}" for key, value in params.items() if key not in given]
        try:
            distributions, fixed, deleted = compat.distributions_of([*lines, *arguments])
        except (ValueError, NotImplementedError, AssertionError) as error:
            raise UserError(f"hydra.sweeper.params: {str(error).splitlines()[0]}") from error
        ordered = sorted(distributions, key=lambda key: not _is_group(key))
        unswept = {key_of(name) for name in fixed}
        written = [line for line in (*arguments, *lines) if key_of(line) in unswept]
        return Space({key: distributions[key] for key in ordered}, (*written, *deleted))

    def draw(
        self, trial: Trial, check: Check, reseed: Callable[[str], None] = lambda _: None
    ) -> list[str]:
        """Draw one setting for a trial, and return its overrides.

        Args:
            trial: keys that it has already keep their values.
            check: see `Check`.
            reseed: called with each key before it is drawn.

        Raises:
            UserError: the values do not go together; or the study knows a key with other values.
        """
        overrides = list(self.fixed)
        for key, distribution in self.distributions.items():
            probe = f"{key}={_first(distribution)}"
            if _is_group(key) or has_effect(key, [*overrides, probe], check):
                reseed(key)
                overrides.append(f"{key}={_suggest(trial, key, distribution)}")
        return effective(overrides, check)

    def named(self, name: str, check: Check) -> list[str]:
        """Return the overrides of a named setting, on the search's model, data and budget.

        Args:
            name: of an experiment, with overrides of it after blanks, if any.
            check: see `Check`.
        """
        experiment, *changes = name.split()
        kept = [
            override
            for override in self.fixed
            if not shapes_sparsity(key_of(override)) and key_of(override) != "experiment"
        ]
        return effective([*kept, f"experiment={experiment}", *changes], check)

    def corners(self) -> Iterator[list[str]]:
        """Yield the choices of the groups that differ from the first of each in at most one."""
        groups = {key: item for key, item in self.distributions.items() if _is_group(key)}
        base = {key: _first(item) for key, item in groups.items()}
        yield [f"{key}={value}" for key, value in base.items()]
        for key, item in groups.items():
            for value in _values(item)[1:]:
                yield [f"{name}={one}" for name, one in (base | {key: value}).items()]

    def conditional(self, check: Check) -> str | None:
        """Return a key that is not drawn for every choice of the groups; None in a flat space."""
        for corner in self.corners():
            for key, item in self.distributions.items():
                probe = [*self.fixed, *corner, f"{key}={_first(item)}"]
                if not _is_group(key) and not has_effect(key, probe, check):
                    return key
        return None

    def check(self, named: Sequence[str], check: Check) -> list[list[str]]:
        """Check every value once, before anything runs.

        Returns:
            Overrides of settings, whose data and model remain to be checked.

        Raises:
            UserError: a value that no setting could have, or a key without effect in all of them.
        """
        settings = []
        for name in named:
            try:
                settings.append(self.named(name, check))
            except WithoutEffectError:
                raise
            except UserError as unfit:
                raise UserError(f"hydra.sweeper.named: {name}: {unfit}; or leave it out") from unfit
        unused: dict[str, WithoutEffectError] = {}
        used: set[str] = set()
        tried: set[str] = set()
        for corner in self.corners():
            overrides = [*self.fixed, *corner]
            for key, item in self.distributions.items():
                if not _is_group(key):
                    overrides.append(f"{key}={_first(item)}")
            kept = effective(overrides, check, unused)
            used |= {key_of(override) for override in kept}
            settings.append(kept)
            for key, item in self.distributions.items():
                if key_of(key) not in keys_of(kept) or _is_group(key) or key in tried:
                    continue
                tried.add(key)
                others = [override for override in kept if key_of(override) != key_of(key)]
                for value in _values(item):
                    effective([*others, f"{key}={value}"], check)
        used |= {key for kept in settings for key in keys_of(kept)}
        for key, error in unused.items():
            if key not in used:
                raise error
        return settings


def _is_group(key: str) -> bool:
    name = key_of(key)
    return name == "experiment" or is_dataclass(getattr(RunConfig(), name, None))


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    try:
        match distribution:
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(key, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return _text(trial.suggest_float(key, low, high, step=step, log=log))
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(key, choices)
    except ValueError as error:  # "does not support dynamic value space"
        raise UserError(
            f"hydra.sweeper.params.{key}: the study knows it with other values "
            f"({str(error).splitlines()[0]}); give another hydra.sweeper.study_name"
        ) from error
    raise UserError(f"hydra.sweeper.params.{key}: {distribution} cannot be drawn from")


def _values(distribution: BaseDistribution) -> list[Any]:
    """Return all values of a categorical distribution, the two ends of a range."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return list(choices)
        case IntDistribution(low=low, high=high):
            return [low, high]
        case FloatDistribution(low=low, high=high):
            return [_text(low), _text(high)]
    return []


def _first(distribution: BaseDistribution) -> Any:
    values = _values(distribution)
    # The low end of a range of sparsities may be 0, which is plain LoRA, beside which nothing has an
    # effect; the high end never is.
    return values[0] if isinstance(distribution, CategoricalDistribution) else values[-1]


def _text(value: float) -> str:
    # 0.30000000000000004 is a step's rounding, and no one's setting.
    return f"{value:.10g}"
