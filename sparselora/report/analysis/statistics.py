"""Accuracy by setting: means and paired differences, with one bootstrap over films and seeds.

A line's group is its film: lines of one film are right or wrong together, so whole films are drawn, not
lines; and a fine-tune repeated with another seed gives another accuracy, so seeds are drawn as well
(both with replacement; the percentile interval of 2,000 draws). Of n seeds n − 1 are drawn each time:
n draws of n would make the variance of their mean too small by (n − 1) / n, a third with three seeds
(Rao & Wu, JASA 1988). And since a spread that is itself estimated from few seeds can be far too small,
the interval is widened as Student's t with n − 1 degrees of freedom is against the normal, for the
seeds' share of its variance. "Film" is whatever `data.group_column` names, or the line itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import stdtrit

from sparselora.records.record import PREDICTIONS_NAME

DRAWS = 2_000
MAX_GROUPS = 1_000
"""Independent groups that are drawn; more would cost memory and add nothing."""
MIN_SEEDS = 3
"""With fewer, no interval is given: a spread over seeds cannot be told from two of them."""


@dataclass(frozen=True)
class Answers:
    """Which validation lines one run answered correctly after its last step."""

    correct: np.ndarray
    """(n,), bool, by ascending example id."""
    examples: np.ndarray
    """(n,), the ids."""
    groups: np.ndarray
    """(n,), the film of each line."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; the 95 % interval is None where there are too few of them."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def half_width(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def load_answers(folder: Path, split: str = "validation") -> Answers | None:
    """The last of a split from a run's `predictions.parquet`; None where none can be read."""
    try:
        file = pq.ParquetFile(folder / PREDICTIONS_NAME)
        # A classifier's logits; of completions, whether each is right.
        said = ["correct"] if "correct" in file.schema_arrow.names else ["label", "logits"]
        # Threads of its own would only get in the way of the callers'.
        table = file.read(["split", "step", "example_id", "group", *said], use_threads=False)
        of_split = pa.compute.equal(table["split"], split).to_numpy()
        steps = np.where(of_split, table["step"].to_numpy(), -1)
        rows = np.flatnonzero(of_split & (steps == steps.max(initial=-1)))
        if not len(rows):
            return None
        if rows[-1] - rows[0] + 1 == len(rows):  # one evaluation, written at once: nothing to copy
            last = table.slice(rows[0], len(rows))
        else:
            last = table.take(rows)
        correct = _correct(last)
        if correct is None:
            return None
        order, examples, groups = _lines(last["example_id"], last["group"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None
    return Answers(correct[order], examples, groups)


def _correct(rows: pa.Table) -> np.ndarray | None:
    if "correct" in rows.column_names:
        return rows["correct"].to_numpy().astype(bool)
    logits = rows["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(logits).all():
        return None
    predicted: np.ndarray = logits.reshape(len(rows), -1).argmax(axis=1)
    return predicted == rows["label"].to_numpy()


_KNOWN_LINES: dict[int, tuple[Any, Any, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}


def _lines(
    examples: pa.ChunkedArray, groups: pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of ascending ids, and ids and films in it; made once for all runs on the same lines."""
    key = len(examples)
    known = _KNOWN_LINES.get(key)
    if known is not None and known[0].equals(examples) and known[1].equals(groups):
        return known[2]
    ids = examples.to_numpy()
    ids = ids.astype(str) if ids.dtype == object else ids
    order = np.argsort(ids, kind="stable")
    found = (order, ids[order], groups.to_numpy().astype(str)[order])
    _KNOWN_LINES[key] = (examples, groups, found)
    return found


class Bootstrap:
    """Intervals over the films of one validation split and the seeds of each setting.

    All settings see the same draws of films, so that their intervals are comparable.

    Args:
        examples, groups: of the split's lines, as in `Answers`.
        seed: of the draws.
    """

    def __init__(self, examples: np.ndarray, groups: np.ndarray, seed: int = 0) -> None:
        self._examples = examples
        # Many films are put into bins, whole ones: the variance that is estimated stays the same.
        self._group_of = np.unique(groups, return_inverse=True)[1] % MAX_GROUPS
        self._seed = seed
        self._draws: dict[int, np.ndarray] = {}
        """By number of seeds, (draws, seeds): how often each seed is in a draw."""
        count = int(self._group_of.max()) + 1
        generator = np.random.default_rng(seed)
        # (draws, films): how often each film is in a draw; floats, whose products are fast
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS)
        self._films = drawn.astype(float)
        self._lines = self._films @ np.bincount(self._group_of)

    def fits(self, answers: Answers) -> bool:
        """Whether they are answers to this split's lines."""
        return np.array_equal(answers.examples, self._examples)

    def mean(self, runs: Sequence[Answers]) -> Estimate:
        """Accuracy, over runs that differ in their seed alone."""
        return self._estimate(np.array([run.correct.astype(float) for run in runs]))

    def difference(
        self, runs: Mapping[int, Answers], others: Mapping[int, Answers]
    ) -> Estimate | None:
        """Accuracy of `runs` less that of `others`, paired by seed; None where no seed is in both."""
        shared = sorted(runs.keys() & others.keys())
        if not shared:
            return None
        gaps = [runs[seed].correct.astype(float) - others[seed].correct for seed in shared]
        return self._estimate(np.array(gaps))

    def _estimate(self, values: np.ndarray) -> Estimate:
        # values: (seeds, lines)
        seeds = len(values)
        mean = float(values.mean())
        if seeds < MIN_SEEDS:
            return Estimate(mean, None, None, seeds)
        films = self._films.shape[1]
        by_film = np.array([np.bincount(self._group_of, row, minlength=films) for row in values])
        if seeds not in self._draws:
            generator = np.random.default_rng([self._seed, seeds])
            drawn = generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=DRAWS)
            self._draws[seeds] = drawn.astype(float)
        sums = ((self._films @ by_film.T) * self._draws[seeds]).sum(axis=1)
        draws = sums / self._lines / (seeds - 1)
        low, high = np.quantile(draws, [0.025, 0.975])
        of_seeds = float(values.mean(axis=1).var(ddof=1)) / seeds
        share = min(of_seeds / max(float(draws.var()), of_seeds, 1e-300), 1.0)
        wider = (1 + share * ((stdtrit(seeds - 1, 0.975) / 1.96) ** 2 - 1)) ** 0.5
        low, high = mean + wider * (low - mean), mean + wider * (high - mean)
        return Estimate(mean, float(min(low, mean)), float(max(high, mean)), seeds)


def pooled_ratio(
    ratios: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> tuple[float, float, float]:
    """Repeats of one measured ratio → their geometric mean with a 95 % interval.

    Of one it is its own. Of two it reaches from the lower end of the one to the upper end of the other.
    From three on it reaches, in logarithms and to each side, as far as the farther of two: what the
    repeats' own ends give (root of the summed squares of their distances, over n), and what the
    repeats' spread gives (Student's t).
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
