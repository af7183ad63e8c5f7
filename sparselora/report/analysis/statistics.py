"""Estimate mean accuracies and paired differences, with one bootstrap over groups and seeds.

Examples of one group are right or wrong together, so whole groups are drawn, not examples; and a
fine-tune repeated with another seed gives another accuracy, so seeds are drawn as well (both with
replacement; the percentile interval of 2,000 draws). Of n seeds n − 1 are drawn each time: n draws of
n would make the variance of their mean too small by (n − 1) / n, a third with three seeds (Rao & Wu,
JASA 1988). And since a spread that is itself estimated from few seeds can be far too small, the
interval is widened as Student's t with n − 1 degrees of freedom is against the normal, for the seeds'
share of its variance. A group is what shares a value in `data.group_column`, such as a film's reviews,
or the example itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sparselora.report.analysis.predictions import Predictions

DRAWS = 2_000
MAX_GROUPS = 1_000
"""Independent groups that are drawn; more would cost memory and add nothing."""
MIN_SEEDS = 3
"""With fewer, no interval is given: a spread over seeds cannot be told from two of them."""


@dataclass(frozen=True)
class Estimate:
    """Hold a mean over seeds; its 95 % interval is None where there are too few of them."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def half_width(self) -> float | None:
        """Return half the width of the interval; None where there is none."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class Bootstrap:
    """Draw intervals over the groups of one validation split and the seeds of each setting.

    All settings see the same draws of groups, so that their intervals are comparable.

    Args:
        examples: ids of the split, as in `Predictions`.
        groups: the group of each of them.
        seed: of the draws.
    """

    def __init__(self, examples: np.ndarray, groups: np.ndarray, seed: int = 0) -> None:
        self._examples = examples
        # Many groups are put into bins, whole ones: the variance that is estimated stays the same.
        self._group_of = np.unique(groups, return_inverse=True)[1] % MAX_GROUPS
        self._seed = seed
        self._draws: dict[int, np.ndarray] = {}
        """By number of seeds, (draws, seeds): how often each seed is in a draw."""
        count = int(self._group_of.max()) + 1
        generator = np.random.default_rng(seed)
        # (draws, groups): how often each group is in a draw; floats, whose products are fast
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS)
        self._group_draws = drawn.astype(float)
        self._examples_drawn = self._group_draws @ np.bincount(self._group_of)

    def fits(self, predictions: Predictions) -> bool:
        """Return whether predictions are on the examples of this split."""
        return np.array_equal(predictions.examples, self._examples)

    def mean(self, runs: Sequence[Predictions]) -> Estimate:
        """Return the mean accuracy of runs that differ in their seed alone."""
        return self._estimate(np.array([run.correct.astype(float) for run in runs]))

    def difference(
        self, runs: Mapping[int, Predictions], others: Mapping[int, Predictions]
    ) -> Estimate | None:
        """Return the accuracy of `runs` less that of `others`, paired by seed; None without a pair."""
        shared = sorted(runs.keys() & others.keys())
        if not shared:
            return None
        gaps = [runs[seed].correct.astype(float) - others[seed].correct for seed in shared]
        return self._estimate(np.array(gaps))

    def _estimate(self, values: np.ndarray) -> Estimate:
        # values: (seeds, examples)
        seeds = len(values)
        mean = float(values.mean())
        if seeds < MIN_SEEDS:
            return Estimate(mean, None, None, seeds)
        groups = self._group_draws.shape[1]
        by_group = np.array([np.bincount(self._group_of, row, minlength=groups) for row in values])
        if seeds not in self._draws:
            generator = np.random.default_rng([self._seed, seeds])
            drawn = generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=DRAWS)
            self._draws[seeds] = drawn.astype(float)
        sums = ((self._group_draws @ by_group.T) * self._draws[seeds]).sum(axis=1)
        draws = sums / self._examples_drawn / (seeds - 1)
        low, high = np.quantile(draws, [0.025, 0.975])
        of_seeds = float(values.mean(axis=1).var(ddof=1)) / seeds
        share = min(of_seeds / max(float(draws.var()), of_seeds, 1e-300), 1.0)
        wider = (1 + share * ((stdtrit(seeds - 1, 0.975) / 1.96) ** 2 - 1)) ** 0.5
        low, high = mean + wider * (low - mean), mean + wider * (high - mean)
        return Estimate(mean, float(min(low, mean)), float(max(high, mean)), seeds)


def bootstrap_of(predictions: Mapping[tuple[str, int], Predictions]) -> Bootstrap | None:
    """Return the bootstrap over the examples that most runs predicted; None without predictions."""
    if not predictions:
        return None
    splits: dict[bytes, list[Predictions]] = {}
    for each in predictions.values():
        splits.setdefault(each.examples.tobytes(), []).append(each)
    one = max(splits.values(), key=len)[0]
    return Bootstrap(one.examples, one.groups)


def pooled_ratio(
    ratios: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> tuple[float, float, float]:
    """Return the geometric mean of one ratio's repeats, and the ends of its 95 % interval.

    Of one repeat the interval is its own. Of two it reaches from the lower end of the one to the upper
    end of the other. From three on it reaches, in logarithms and to each side, as far as the farther of
    two: what the repeats' own ends give (root of the summed squares of their distances, over n), and
    what the repeats' spread gives (Student's t).
    """
    logs = np.log(np.asarray(ratios, dtype=float))
    mean, count = float(logs.mean()), len(logs)
    if count < MIN_SEEDS:
        return float(np.exp(mean)), float(min(lows)), float(max(highs))
    spread = float(stdtrit(count - 1, 0.975)) * float(logs.std(ddof=1)) / count**0.5
    below, above = (
        max(float(((np.log(np.asarray(ends, float)) - logs) ** 2).sum()) ** 0.5 / count, spread)
        for ends in (lows, highs)
    )
    return float(np.exp(mean)), float(np.exp(mean - below)), float(np.exp(mean + above))
