"""Spread a sparsity over layers by what its loss of channels costs in each: pure, no torch."""

import itertools
from collections.abc import Mapping, Sequence

from sparselora.sparse.schedule import MAX_SPARSITY, check_room

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.96, MAX_SPARSITY)
"""The sparsities at which a layer's error is measured; at 0 it is 0."""


def lower_hull(curve: Sequence[float], levels: Sequence[float] = LEVELS) -> list[int]:
    """Return the indices of the points of the greatest convex function below (levels, curve)."""
    hull: list[int] = []
    for index in range(len(levels)):
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            # b stays only where the way over it bends upwards.
            before = (curve[b] - curve[a]) * (levels[index] - levels[b])
            after = (curve[index] - curve[b]) * (levels[b] - levels[a])
            if before < after:
                break
            hull.pop()
        hull.append(index)
    return hull


def allocate(
    curves: Sequence[Sequence[float]],
    target: float,
    fixed: Mapping[int, float] | None = None,
    levels: Sequence[float] = LEVELS,
) -> list[float]:
    """Return the layer sparsities of mean `target` whose summed error is least.

    Errors of layers are taken as additive. Each curve is replaced by its lower convex hull; then
    raising, again and again, the layer that costs least for what it saves is the optimum of the
    relaxed problem.

    Args:
        curves: a row for each layer, its error at each of `levels`, rising from 0.
        target: mean over all layers.
        fixed: layers that keep a value of their own; the others make up the mean.
        levels: the sparsities of a curve's points, rising.

    Raises:
        UserError: `target` is over 0.99, or the fixed layers leave no room for the mean.
    """
    fixed = fixed or {}
    layers = len(curves)
    free = [index for index in range(layers) if index not in fixed]
    room = target * layers - sum(fixed.values())
    check_room(target, room, len(free))
    values = [fixed.get(index, 0.0) for index in range(layers)]
    segments = []
    for layer in free:
        hull = lower_hull(curves[layer], levels)
        for a, b in itertools.pairwise(hull):
            width = levels[b] - levels[a]
            segments.append(((curves[layer][b] - curves[layer][a]) / width, layer, width))
    for _, layer, width in sorted(segments):
        step = min(width, max(room, 0.0))
        values[layer] += step
        room -= step
    return [
        min(value, MAX_SPARSITY) if index in free else value for index, value in enumerate(values)
    ]
