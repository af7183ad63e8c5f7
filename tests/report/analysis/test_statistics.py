import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora.report.analysis.predictions import Predictions
from sparselora.report.analysis.statistics import Bootstrap, bootstrap_of, pooled_ratio


def predictions(correct: np.ndarray, groups: np.ndarray | None = None) -> Predictions:
    examples = np.arange(len(correct))
    return Predictions(correct.astype(bool), examples, examples if groups is None else groups)


def test_interval_over_examples_is_the_binomials() -> None:
    # Each example its own group, and seeds that agree: what is left is sampling of examples.
    correct = np.random.default_rng(0).random(1500) < 0.8
    bootstrap = Bootstrap(np.arange(1500), np.arange(1500))
    found = bootstrap.mean([predictions(correct)] * 5)
    expected = 1.96 * (found.mean * (1 - found.mean) / 1500) ** 0.5
    assert found.half_width == pytest.approx(expected, rel=0.1)


def test_interval_over_seeds_has_the_variance_of_a_mean_of_seeds() -> None:
    # One group alone: what is left is the seeds. n draws of n seeds would give √(2/3) of this.
    count = 1000
    shares = (0.70, 0.74, 0.84)
    runs = [predictions(np.arange(count) < share * count) for share in shares]
    bootstrap = Bootstrap(np.arange(count), np.zeros(count))
    found = bootstrap.mean(runs)
    draws = np.array([(a + b) / 2 for a in shares for b in shares])
    assert draws.std() == pytest.approx(np.std(shares, ddof=1) / 3**0.5)
    # Two degrees of freedom: 4.30 standard errors where the normal has 1.96.
    wider = 4.303 / 1.96
    assert found.low == pytest.approx(found.mean + wider * (0.70 - found.mean), abs=0.02)
    assert found.high == pytest.approx(found.mean + wider * (0.84 - found.mean), abs=0.02)


def test_examples_of_a_group_count_as_one_draw() -> None:
    groups = np.repeat(np.arange(20), 50)
    correct = np.random.default_rng(1).random(20)[groups] < 0.6  # a group is right or wrong whole
    alone = Bootstrap(np.arange(1000), np.arange(1000)).mean([predictions(correct)] * 3)
    by_group = Bootstrap(np.arange(1000), groups).mean([predictions(correct, groups)] * 3)
    assert by_group.half_width is not None
    assert alone.half_width is not None
    assert by_group.half_width > 4 * alone.half_width


def test_differences_are_paired_by_seed_and_need_three() -> None:
    generator = np.random.default_rng(2)
    easy = generator.random(400) < 0.8
    bootstrap = Bootstrap(np.arange(400), np.arange(400))
    dense = {seed: predictions(easy ^ (generator.random(400) < 0.1)) for seed in range(4)}
    same = bootstrap.difference(dense, dense)
    assert same is not None
    assert (same.mean, same.low, same.high, same.seeds) == (0.0, 0.0, 0.0, 4)
    two = bootstrap.difference({1: dense[1], 2: dense[2], 9: dense[3]}, dense)
    assert two is not None
    assert (two.seeds, two.low, two.high, two.half_width) == (2, None, None, None)
    assert bootstrap.difference({9: dense[1]}, dense) is None


def test_the_interval_covers() -> None:
    # 200 made-up studies of 3 seeds and 60 groups: the true difference is 0, and in 95 % of them it
    # should lie inside; fewer than 90 % has a probability below 0.2 % at a true coverage of 95 %.
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 10)
    bootstrap = Bootstrap(np.arange(600), groups)
    held = 0
    for _ in range(200):
        by_group = generator.normal(scale=0.05, size=(2, 60))  # what a setting does to each group
        runs: list[dict[int, Predictions]] = []
        for side in by_group:
            by_seed = generator.normal(scale=0.03, size=3)
            chance = 0.75 + side[groups] + by_seed[:, None]
            runs.append(
                {
                    n: predictions(generator.random(600) < row, groups)
                    for n, row in enumerate(chance)
                }
            )
        gap = bootstrap.difference(*runs)
        assert gap is not None
        assert gap.low is not None
        assert gap.high is not None
        held += gap.low <= 0 <= gap.high
    assert held >= 180


def test_the_bootstrap_is_over_the_examples_of_most_runs() -> None:
    many = predictions(np.ones(30))
    few = predictions(np.ones(20))
    found = bootstrap_of({("a", 1): few, ("a", 2): many, ("b", 1): many})
    assert found is not None
    assert found.fits(many)
    assert not found.fits(few)
    assert bootstrap_of({}) is None


def test_one_measured_ratio_keeps_its_interval() -> None:
    middle, low, high = pooled_ratio([1.5], [1.4], [1.6])
    assert middle == pytest.approx(1.5)
    assert np.log(high / low) == pytest.approx(np.log(1.6 / 1.4))


def test_an_interval_need_not_be_even() -> None:
    # A single run's own was moved to lie evenly around its ratio.
    assert pooled_ratio([1.3], [1.05], [1.32]) == pytest.approx((1.3, 1.05, 1.32))
    ratio, low, high = pooled_ratio([1.3] * 4, [1.05] * 4, [1.32] * 4)
    assert (ratio / low - 1) > 5 * (high / ratio - 1)


def test_two_repeats_span_from_end_to_end() -> None:
    assert pooled_ratio([0.9, 1.3], [0.89, 1.29], [0.91, 1.31])[1:] == (0.89, 1.31)


def test_repeats_that_disagree_widen_the_interval() -> None:
    _, low, high = pooled_ratio([1.5] * 3, [1.49] * 3, [1.51] * 3)
    assert high / low < 1.51 / 1.49  # three agree: narrower than each
    _, low, high = pooled_ratio([1.3, 1.5, 1.7], [1.29, 1.49, 1.69], [1.31, 1.51, 1.71])
    assert low < 1.3
    assert high > 1.7


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.5, 3.0), min_size=1, max_size=6))
def test_pooled_ratio_lies_inside_its_interval(ratios: list[float]) -> None:
    low, high = [0.95 * each for each in ratios], [1.05 * each for each in ratios]
    middle, lower, upper = pooled_ratio(ratios, low, high)
    assert lower <= middle <= upper
    assert min(ratios) * 0.999 <= middle <= max(ratios) * 1.001
