import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora.errors import UserError
from sparselora.sparse.schedule import (
    MAX_SPARSITY,
    get_layer_sparsity_ratio,
    kept_channels,
    layer_sparsities,
    ramp,
)


def test_pattern_names_whole_segments_only() -> None:
    # An earlier implementation let layer.1 name layer.10 as well.
    patterns = {"layer.1": 0.4}
    assert get_layer_sparsity_ratio("encoder.layer.1.output", patterns, 0.7) == 0.4
    assert get_layer_sparsity_ratio("encoder.layer.10.output", patterns, 0.7) == 0.7
    assert get_layer_sparsity_ratio("encoder.layer.11", patterns, 0.7) == 0.7


def test_two_patterns_for_one_layer() -> None:
    with pytest.raises(UserError, match=r"'layer.1' and '1' both name 'layer.1'"):
        get_layer_sparsity_ratio("layer.1", {"layer.1": 0.4, "1": 0.5}, 0.7)


def test_pattern_that_matches_nothing_names_the_layers_there_are() -> None:
    with pytest.raises(UserError, match=r"layer.9: 0.3.*layer.0 to layer.5"):
        layer_sparsities("uniform", 6, 0.5, {"layer.9": 0.3})


def test_explicit_names_every_layer_or_points_to_ramp() -> None:
    named = {f"layer.{index}": 0.1 * index for index in range(6)}
    assert layer_sparsities("explicit", 6, 0.5, named) == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    )
    for layers in (4, 12):
        with pytest.raises(UserError, match="schedule=ramp"):
            layer_sparsities("explicit", layers, 0.5, named)


def test_uniform_fills_what_is_not_named() -> None:
    assert layer_sparsities("uniform", 3, 0.5, {"layer.1": 0.0}) == [0.5, 0.0, 0.5]


def test_ramp_by_hand() -> None:
    # 0.65 · (0.5 + l / 5)
    assert ramp(6, 0.65) == pytest.approx([0.325, 0.455, 0.585, 0.715, 0.845, 0.975])
    assert ramp(1, 0.4) == [0.4]
    # At 0.75 the last two, 0.975 and 1.125, become 0.975 + share and 0.99.
    values = ramp(6, 0.75)
    assert values[5] == MAX_SPARSITY
    assert sum(values) / 6 == pytest.approx(0.75, abs=1e-12)


@given(layers=st.integers(1, 48), target=st.floats(0, MAX_SPARSITY))
def test_ramp_keeps_its_mean(layers: int, target: float) -> None:
    values = ramp(layers, target)
    assert sum(values) / layers == pytest.approx(target, abs=1e-9)
    assert all(0.0 <= value <= MAX_SPARSITY + 1e-12 for value in values)
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(values))


@given(
    layers=st.integers(2, 24),
    target=st.floats(0.01, 0.9),
    fixed=st.dictionaries(st.integers(0, 23), st.floats(0, 0.98), max_size=5),
)
def test_ramp_keeps_fixed_layers_and_the_mean_or_says_why_not(
    layers: int, target: float, fixed: dict[int, float]
) -> None:
    fixed = {index: value for index, value in fixed.items() if index < layers}
    room = target * layers - sum(fixed.values())
    if len(fixed) < layers and not 0 <= room <= MAX_SPARSITY * (layers - len(fixed)):
        with pytest.raises(UserError, match="leave"):
            ramp(layers, target, fixed)
        return
    values = ramp(layers, target, fixed)
    assert all(values[index] == value for index, value in fixed.items())
    if len(fixed) < layers:
        assert sum(values) / layers == pytest.approx(target, abs=1e-9)
        assert all(-1e-12 <= value <= MAX_SPARSITY + 1e-9 for value in values)


def test_ramp_target_over_the_cap() -> None:
    with pytest.raises(UserError, match=r"0\.99"):
        ramp(6, 0.995)


@given(sparsity=st.floats(0, 0.999), size=st.integers(1, 5000))
def test_kept_channels_is_near_and_rounded(sparsity: float, size: int) -> None:
    kept = kept_channels(sparsity, size)
    unit = 16 if size >= 512 else 1
    assert 1 <= kept <= size
    assert kept % unit == 0 or kept == size
    wanted = max((1 - sparsity) * size, unit)
    assert abs(kept - wanted) <= unit / 2 + 1e-6


@pytest.mark.parametrize("intermediate_size", [1536, 3072])
@pytest.mark.parametrize(
    ("layers", "mean"),
    [
        ((0.0, 0.2, 0.3, 0.5, 0.6, 0.7), 0.383),
        ((0.4, 0.5, 0.6, 0.8, 0.9, 0.95), 0.692),
        ((0.3, 0.4, 0.5, 0.7, 0.8, 0.9), 0.600),
    ],
)
def test_named_settings_after_rounding(
    layers: tuple[float, ...], mean: float, intermediate_size: int
) -> None:
    kept = [kept_channels(sparsity, intermediate_size) for sparsity in layers]
    realised = sum(1 - count / intermediate_size for count in kept) / len(kept)
    assert math.isclose(realised, mean, abs_tol=0.005)
