"""List the estimators that a config may name, and add one to them. Loads no torch.

An estimator scores the channels of a layer: those with the highest scores are kept. One is a function
that builds it for a block of the model, and a row here that says what kind it is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from sparselora.errors import UserError

Builder = Callable[..., Any]


@dataclass(frozen=True)
class EstimatorKind:
    """Describe one estimator: what builds it, and what a config and a step have to know of it."""

    build: Builder | str
    """What makes one for an FFN block: a function, or "module:function", which is loaded when needed."""
    build_attention: Builder | str | None = None
    """What makes one for a layer's attention, given likewise; None where it scores no attention."""
    has_rank: bool = False
    """Whether `svd_rank` means anything to it."""
    uses_tokens: bool = False
    """Whether it looks at a batch's hidden states, so that a sample of tokens means anything to it."""
    needs_calibration: bool = False
    """Whether it is fitted on calibration batches."""
    fixed: bool = False
    """Whether it chooses once and for all, so that nothing is scored or gathered in a step."""
    full_projection: bool = False
    """Whether an estimate costs as much as the projection itself."""


def _own(name: str, **flags: bool) -> EstimatorKind:
    channels = "sparselora.sparse.channels"
    return EstimatorKind(
        f"{channels}.ffn_estimators:{name}_estimator",
        f"{channels}.attention_estimators:{name}_norms",
        **flags,
    )


_REGISTERED = {
    "svd": _own("svd", has_rank=True, uses_tokens=True),
    "whitened": _own("whitened", has_rank=True, uses_tokens=True, needs_calibration=True),
    "static": _own("static", needs_calibration=True, fixed=True),
    "magnitude": _own("magnitude", fixed=True),
    "oracle": _own("oracle", uses_tokens=True, full_projection=True),
    "random": _own("random"),
}

ESTIMATORS: Mapping[str, EstimatorKind] = MappingProxyType(_REGISTERED)
"""Name → kind; what is registered later is seen here, too."""


def register_estimator(
    name: str,
    build: Builder | str,
    build_attention: Builder | str | None = None,
    *,
    has_rank: bool = False,
    uses_tokens: bool | None = None,
    needs_calibration: bool = False,
    fixed: bool = False,
    full_projection: bool = False,
) -> None:
    """Add an estimator of one's own, to be named by `SparsityConfig(estimator=…)` and `estimator=…`.

    A builder may be given as "module:function", so that registering it loads neither torch nor a model.
    Registering the same functions once more (a module that is loaded again) replaces the row.

    Args:
        name: of the estimator, and of its file `conf/estimator/NAME.yaml`: lower-case letters, digits
            and underscores.
        build: `(block: FFNBlock, config: SparsityConfig, moments: LayerMoments | None) -> nn.Module`. The
            module's forward takes hidden states, (n, d), and token weights, (n, 1) or None where all
            tokens count alike, and gives scores, (f,), at least float32. Under `torch.distributed` the
            scores of several ranks are joined as norms are: the root of the sum of their squares.
        build_attention: `(attention: Attention, config: SparsityConfig, moments: InputMoments | None) ->
            nn.Module`. The forward of this one gives norms of query, key and value, three of (rows,).
            Without it attention cannot be made sparse with this estimator.
        has_rank: whether `svd_rank` means anything to it.
        uses_tokens: whether it looks at the hidden states; one that does not is given a single token. Not
            given, it is assumed unless the estimator is `fixed`.
        needs_calibration: whether its builders need moments of calibration batches.
        fixed: whether its scores are the same for every batch, so that channels are chosen once.
        full_projection: whether an estimate costs as much as the projection itself; counted in FLOPs.

    Raises:
        UserError: the name is not one, or is taken by another estimator; a builder is none; `fixed`
            and `uses_tokens` exclude each other.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"register_estimator({name!r}): a name of lower-case letters, digits and underscores, a "
            "letter first, is allowed"
        )
    for builder in (build,) if build_attention is None else (build, build_attention):
        named = isinstance(builder, str) and re.fullmatch(r"[\w.]+:\w+", builder)
        if not named and not callable(builder):
            raise UserError(
                f"register_estimator({name!r}): {builder!r}: a function, or 'module:function', is allowed"
            )
    if fixed and uses_tokens:
        raise UserError(
            f"register_estimator({name!r}): fixed and uses_tokens exclude each other; a fixed one scores "
            "no batch"
        )
    kind = EstimatorKind(
        build,
        build_attention,
        has_rank=has_rank,
        uses_tokens=not fixed if uses_tokens is None else uses_tokens,
        needs_calibration=needs_calibration,
        fixed=fixed,
        full_projection=full_projection,
    )
    there = _REGISTERED.get(name)
    if there is not None and not _is_same(there, kind):
        raise UserError(
            f"register_estimator({name!r}): there is an estimator of this name already, built by "
            f"{_address(there.build)}"
        )
    _REGISTERED[name] = kind


def load_builder(builder: Builder | str) -> Builder:
    """Return a builder's function, loading its module where it is named by "module:function".

    Raises:
        UserError: there is no such module or function.
    """
    if not isinstance(builder, str):
        return builder
    module, _, name = builder.partition(":")
    try:
        found: Builder = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"estimator: {builder} cannot be loaded ({error})") from error
    if not callable(found):
        raise UserError(f"estimator: {builder} is a {type(found).__name__}; a function is needed")
    return found


def _is_same(there: EstimatorKind, kind: EstimatorKind) -> bool:
    """Return whether a kind is the one that is there, as where a module is loaded again, or mended."""
    builders = ((there.build, kind.build), (there.build_attention, kind.build_attention))
    return all(
        one is other
        # A lambda, or a function made by another, has no address of its own.
        or (_address(one) == _address(other) and "<" not in _address(one))
        for one, other in builders
    )


def _address(builder: Builder | str | None) -> str:
    if isinstance(builder, str):
        return builder
    module = getattr(builder, "__module__", None)
    return f"{module}:{getattr(builder, '__qualname__', repr(builder))}"
