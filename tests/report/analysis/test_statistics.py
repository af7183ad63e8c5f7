from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora.report.analysis.statistics import Answers, Bootstrap, load_answers, pooled_ratio
from tests.report.synthetic import FILMS, LINES, run


def answers(correct: np.ndarray, groups: np.ndarray | None = None) -> Answers:
    examples = np.arange(len(correct))
    return Answers(correct.astype(bool), examples, examples if groups is None else groups)


def test_predictions_are_those_of_the_last_step_by_example(tmp_path: Path) -> None:
    folder = run(tmp_path / "one")
    path = folder / "predictions.parquet"
    last = pd.read_parquet(path)
    wrong = last.assign(step=1, label=1 - last["label"])
    test = last.assign(split="test", step=99, label=1 - last["label"])
    shuffled = last.sample(frac=1, random_state=0)
    pd.concat([wrong, shuffled, test]).to_parquet(path, index=False)
    found = load_answers(folder)
    assert found is not None
    assert found.examples.tolist() == list(range(LINES))
    assert len(set(found.groups)) == FILMS
    expected = np.stack(last["logits"].tolist()).argmax(1) == last["label"].to_numpy()
    assert (found.correct == expected).all()


@pytest.mark.parametrize("logits", [[0.1] * 4, [None] * 4, ["a"] * 4, [[0.1, None]] * 4])
def test_logits_that_are_none_are_no_answers(tmp_path: Path, logits: list[object]) -> None:
    columns = {"split": "validation", "step": 1, "example_id": range(4), "group": [None, 1, 2, 3]}
    frame = pd.DataFrame({**columns, "label": 0, "logits": logits}).astype({"group": "string"})
    frame.to_parquet(tmp_path / "predictions.parquet")
    assert load_answers(tmp_path) is None
    frame["logits"] = [[0.1, 0.2]] * 4
    frame.to_parquet(tmp_path / "predictions.parquet")
    found = load_answers(tmp_path)
    assert found is not None
    assert Bootstrap(found.examples, found.groups).mean([found] * 3).mean == 0.0


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut", "other columns"])
def test_predictions_that_cannot_be_read_are_none(
    tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "predictions.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        pd.DataFrame({"split": ["validation"], "step": [1]}).to_parquet(path)
    assert load_answers(tmp_path) is None


def test_interval_over_lines_is_the_binomials() -> None:
    # Each line its own film, and seeds that agree: what is left is sampling of lines.
    correct = np.random.default_rng(0).random(1500) < 0.8
    bootstrap = Bootstrap(np.arange(1500), np.arange(1500))
    found = bootstrap.mean([answers(correct)] * 5)
    expected = 1.96 * (found.mean * (1 - found.mean) / 1500) ** 0.5
    assert found.half_width == pytest.approx(expected, rel=0.1)


def test_interval_over_seeds_has_the_variance_of_a_mean_of_seeds() -> None:
    # One film alone: what is left is the seeds. n draws of n seeds would give √(2/3) of this.
    lines = 1000
    shares = (0.70, 0.74, 0.84)
    runs = [answers(np.arange(lines) < share * lines) for share in shares]
    bootstrap = Bootstrap(np.arange(lines), np.zeros(lines))
    found = bootstrap.mean(runs)
    draws = np.array([(a + b) / 2 for a in shares for b in shares])
    assert draws.std() == pytest.approx(np.std(shares, ddof=1) / 3**0.5)
    # Two degrees of freedom: 4.30 standard errors where the normal has 1.96.
    wider = 4.303 / 1.96
    assert found.low == pytest.approx(found.mean + wider * (0.70 - found.mean), abs=0.02)
    assert found.high == pytest.approx(found.mean + wider * (0.84 - found.mean), abs=0.02)


def test_lines_of_a_film_count_as_one_draw() -> None:
    films = np.repeat(np.arange(20), 50)
    correct = np.random.default_rng(1).random(20)[films] < 0.6  # a film is right or wrong whole
    alone = Bootstrap(np.arange(1000), np.arange(1000)).mean([answers(correct)] * 3)
    by_film = Bootstrap(np.arange(1000), films).mean([answers(correct, films)] * 3)
    assert by_film.half_width is not None
    assert alone.half_width is not None
    assert by_film.half_width > 4 * alone.half_width


def test_differences_are_paired_by_seed_and_need_three() -> None:
    generator = np.random.default_rng(2)
    easy = generator.random(400) < 0.8
    bootstrap = Bootstrap(np.arange(400), np.arange(400))
    dense = {seed: answers(easy ^ (generator.random(400) < 0.1)) for seed in range(4)}
    same = bootstrap.difference(dense, dense)
    assert same is not None
    assert (same.mean, same.low, same.high, same.seeds) == (0.0, 0.0, 0.0, 4)
    two = bootstrap.difference({1: dense[1], 2: dense[2], 9: dense[3]}, dense)
    assert two is not None
    assert (two.seeds, two.low, two.high, two.half_width) == (2, None, None, None)
    assert bootstrap.difference({9: dense[1]}, dense) is None


def test_the_interval_covers() -> None:
    # 200 made-up studies of 3 seeds and 60 films: the true difference is 0, and in 95 % of them it
    # should lie inside; fewer than 90 % has a probability below 0.2 % at a true coverage of 95 %.
    generator = np.random.default_rng(3)
    films = np.repeat(np.arange(60), 10)
    bootstrap = Bootstrap(np.arange(600), films)
    held = 0
    for _ in range(200):
        by_film = generator.normal(scale=0.05, size=(2, 60))  # what a setting does to each film
        runs: list[dict[int, Answers]] = []
        for side in by_film:
            by_seed = generator.normal(scale=0.03, size=3)
            chance = 0.75 + side[films] + by_seed[:, None]
            runs.append(
                {n: answers(generator.random(600) < row, films) for n, row in enumerate(chance)}
            )
        gap = bootstrap.difference(*runs)
        assert gap is not None
        assert gap.low is not None
        assert gap.high is not None
        held += gap.low <= 0 <= gap.high
    assert held >= 180


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
