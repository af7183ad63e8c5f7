"""Decide how sparse each layer is: pure functions, no torch.

A layer's canonical name is `layer.N` in every architecture. A pattern names a layer when its dotted
segments stand in the layer's name one after the other, whole: `layer.1` never names `layer.10`.
"""

import math
from collections.abc import Mapping, Sequence

from sparselora.errors import UserError

MAX_SPARSITY = 0.99
"""No schedule asks for more: at least one channel in a hundred stays."""

RULES = ("uniform", "ramp", "deeper", "explicit", "calibrated")


def names_layer(pattern: str, layer_name: str) -> bool:
    """Return whether `pattern` names `layer_name`, comparing whole dotted segments."""
    wanted, segments = pattern.split("."), layer_name.split(".")
    return any(
        segments[start : start + len(wanted)] == wanted
        for start in range(len(segments) - len(wanted) + 1)
    )


def get_layer_sparsity_ratio(
    layer_name: str, layer_sparsity: Mapping[str, float], default: float
) -> float:
    """Return the sparsity of one layer, or `default` where no pattern names it.

    Args:
        layer_name: a dotted name that holds `layer.N`, such as `encoder.layer.3.output`.
        layer_sparsity: pattern → sparsity in [0, 1).
        default: for a layer that no pattern names.

    Raises:
        UserError: two patterns name this layer.
    """
    patterns = [pattern for pattern in layer_sparsity if names_layer(pattern, layer_name)]
    if len(patterns) > 1:
        raise UserError(
            f"layer_sparsity: {' and '.join(map(repr, patterns))} both name {layer_name!r}; "
            "one pattern a layer is allowed"
        )
    return layer_sparsity[patterns[0]] if patterns else default


def named_layers(
    rule: str, num_layers: int, layer_sparsity: Mapping[str, float]
) -> dict[int, float]:
    """Return the index of each layer that a pattern names → its sparsity.

    Raises:
        UserError: a pattern names no layer, or two name the same one.
    """
    names = [f"layer.{index}" for index in range(num_layers)]
    for pattern in layer_sparsity:
        if not any(names_layer(pattern, name) for name in names):
            raise UserError(
                f"layer_sparsity={{{pattern}: {layer_sparsity[pattern]:g}}}: matches no layer of "
                f"this model, which has {_layer_range(num_layers)}"
                + ("; schedule=ramp fits any number of layers" if rule == "explicit" else "")
            )
    found = {
        index: get_layer_sparsity_ratio(name, layer_sparsity, math.nan)
        for index, name in enumerate(names)
    }
    return {index: sparsity for index, sparsity in found.items() if not math.isnan(sparsity)}


def layer_sparsities(
    rule: str, num_layers: int, ffn_sparsity: float, layer_sparsity: Mapping[str, float]
) -> list[float]:
    """Return the sparsity of each layer, in order.

    `uniform`: `ffn_sparsity` wherever no pattern says otherwise. `explicit`: every layer is named.
    `ramp`: rises with depth, see `ramp`; layers that are named stay fixed and the others keep the
    mean over all layers at exactly `ffn_sparsity`. `deeper`: the first half of the layers, the
    middle one of an odd number with it, is dense, and the others share that mean evenly. `calibrated`
    keeps that mean too; until the model's errors are measured, its free layers share it evenly.

    Raises:
        UserError: a pattern names no layer, two name the same one, `explicit` leaves one out, or
            the fixed layers make the mean impossible.
    """
    names = [f"layer.{index}" for index in range(num_layers)]
    fixed = named_layers(rule, num_layers, layer_sparsity)
    if rule == "explicit" and len(fixed) < num_layers:
        missing = next(name for index, name in enumerate(names) if index not in fixed)
        raise UserError(
            f"layer_sparsity: {missing} is not named, and this schedule names every layer; this "
            f"model has {_layer_range(num_layers)}; schedule=ramp fits any number of layers"
        )
    if rule == "ramp":
        return ramp(num_layers, ffn_sparsity, fixed)
    if rule in ("calibrated", "deeper"):
        first = (num_layers + 1) // 2 if rule == "deeper" and num_layers > 1 else 0
        free = sum(index not in fixed for index in range(first, num_layers))
        room = ffn_sparsity * num_layers - sum(fixed.values())
        check_room(ffn_sparsity, room, free)
        share = room / max(free, 1)
        return [fixed.get(index, 0.0 if index < first else share) for index in range(num_layers)]
    return [fixed.get(index, ffn_sparsity) for index in range(num_layers)]


def ramp(num_layers: int, target: float, fixed: Mapping[int, float] | None = None) -> list[float]:
    """Return sparsities that rise with depth, whose mean over layers is exactly `target`.

    Layer l of L gets `target · (0.5 + l / (L − 1))`.

    Values over 0.99 are capped, and what the cap takes off is spread evenly over the layers still
    below it, until nothing is over. `fixed` layers keep their value; the others are scaled so that
    the mean over all of them stays `target`. One layer alone gets `target`.

    Raises:
        UserError: `target` is over 0.99, or the fixed layers leave no room for the mean.
    """
    fixed = fixed or {}
    depth = max(num_layers - 1, 1)
    values = [
        target * (0.5 + index / depth) if num_layers > 1 else target for index in range(num_layers)
    ]
    free = [index for index in range(num_layers) if index not in fixed]
    room = target * num_layers - sum(fixed.values())
    check_room(target, room, len(free))
    if not free:
        return [fixed[index] for index in range(num_layers)]
    free_sum = sum(values[index] for index in free)
    scale = room / free_sum if free_sum else 0.0
    for index in range(num_layers):
        values[index] = fixed[index] if index in fixed else values[index] * scale
    return _cap(values, free)


def check_room(target: float, room: float, free: int) -> None:
    """Raise a `UserError` unless `room` can be spread over `free` layers, 0 to 0.99 each."""
    if target > MAX_SPARSITY:
        raise UserError(
            f"ffn_sparsity={target:g}: a schedule with a mean allows at most {MAX_SPARSITY}"
        )
    if free and not 0.0 <= room <= MAX_SPARSITY * free + 1e-12:
        raise UserError(
            f"ffn_sparsity={target:g}: the layers fixed by layer_sparsity leave "
            f"{room / free:.3f} for each of the others; 0 to {MAX_SPARSITY} is allowed"
        )


def _cap(values: list[float], free: Sequence[int]) -> list[float]:
    while any(values[index] > MAX_SPARSITY for index in free):
        over = [index for index in free if values[index] >= MAX_SPARSITY]
        excess = sum(values[index] - MAX_SPARSITY for index in over)
        below = [index for index in free if index not in over]
        if not below:
            # Rounding alone can leave an excess here: the room was checked before.
            below, excess = over, 0.0
        for index in over:
            values[index] = MAX_SPARSITY
        for index in below:
            values[index] += excess / len(below)
    return values


def kept_channels(sparsity: float, intermediate_size: int) -> int:
    """Return how many of the f channels stay at a sparsity in [0, 1).

    Rounded to the nearest multiple of 16, which keeps matrix products on full vector registers,
    and to the nearest whole number where f < 512, since 16 channels would be too coarse there.
    At least one unit stays, at most f.
    """
    unit = 16 if intermediate_size >= 512 else 1
    units = math.floor((1.0 - sparsity) * intermediate_size / unit + 0.5)
    return min(max(units, 1) * unit, intermediate_size)


def _layer_range(num_layers: int) -> str:
    return "layer.0 alone" if num_layers == 1 else f"layer.0 to layer.{num_layers - 1}"
