import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.analysis.verdict import headline, more_seeds, recommend
from tests.report.synthetic import named_settings, run


def only(root: Path) -> Comparison:
    (comparison,) = compare(load_records(root))
    return comparison


def test_the_fastest_that_is_shown_to_lose_little_enough(tmp_path: Path) -> None:
    comparison = only(named_settings(tmp_path))
    found = recommend(comparison, 10.0)
    assert found.row is not None
    assert found.row["setting"] == "optimized"
    found = recommend(comparison, 1.5)
    assert found.row is not None
    assert found.row["setting"] == "fallback"
    assert headline(comparison, 1.5).startswith("fallback: 1.60 × the speed of stock LoRA")


def test_each_loses_more(tmp_path: Path) -> None:
    comparison = only(named_settings(tmp_path))
    shown = replace(comparison, table=comparison.table.assign(delta_high=-0.3))
    found = recommend(shown, 0.1)
    assert found.row is None
    assert "each faster setting is shown to lose more" in found.reason
    assert "the least, fallback, loses 0.50 points (0.30 to " in found.reason
    # By the data themselves, its interval reaches to none.
    found = recommend(comparison, 0.1)
    assert "too thin: fallback comes out -0.50 points" in found.reason
    assert "over 0.1 on average, though not by its whole interval" in found.reason
    text = headline(comparison, 0.1)
    assert text.startswith("No setting is shown to be faster")
    assert "Fastest: optimized: 1.80 ×" in text


def test_too_few_seeds_says_how_many_more(tmp_path: Path) -> None:
    found = recommend(only(named_settings(tmp_path, seeds=2)), 1.0)
    assert found.row is None
    assert found.reason == (
        "the data is too thin: fallback comes out -0.50 points on 2 paired seeds; an interval takes "
        "3, 1 more"
    )


def test_a_wide_interval_says_how_many_more(tmp_path: Path) -> None:
    named_settings(tmp_path)
    comparison = only(tmp_path)
    low = comparison.table.set_index("setting").loc["fallback", "delta_low"]
    found = recommend(comparison, 0.51)
    assert found.row is None
    assert "too thin" in found.reason
    more = more_seeds(-0.5, float(low), 3, 0.51)
    assert (f"about {more} more seeds" if more else "hardly settle it") in found.reason


@pytest.mark.parametrize(
    ("gap", "low", "seeds", "drop", "more"),
    # t(n − 1) / √n: 1.242 at 5 and .604 at 13; 2.484 at 3 and 1.2415 at 5.
    [(0.0, -1.0, 5, 0.5, 8), (-0.4, -0.6, 3, 0.5, 2), (-0.4, -1.0, 5, 0.401, None)],
)
def test_more_seeds(gap: float, low: float, seeds: int, drop: float, more: int | None) -> None:
    assert more_seeds(gap, low, seeds, drop) == more


def test_nothing_to_recommend_from(tmp_path: Path) -> None:
    run(tmp_path / "one" / "a", "optimized")
    assert "no run of plain LoRA" in recommend(only(tmp_path / "one"), 1.0).reason
    run(tmp_path / "two" / "a")
    assert "only runs of plain LoRA" in recommend(only(tmp_path / "two"), 1.0).reason
    run(tmp_path / "three" / "a")
    run(tmp_path / "three" / "b", "optimized", timed=False)
    assert "no run was timed" in recommend(only(tmp_path / "three"), 1.0).reason
    run(tmp_path / "four" / "a")
    run(tmp_path / "four" / "b", "optimized", speedup=1.01)
    assert "no setting is faster" in recommend(only(tmp_path / "four"), 1.0).reason
    run(tmp_path / "five" / "a", seed=1)
    run(tmp_path / "five" / "b", "optimized", seed=2)
    assert "no seed has both" in recommend(only(tmp_path / "five"), 1.0).reason


def test_slower_than_our_dense_path_is_no_recommendation(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        run(tmp_path / f"d{seed}", seed=seed, speedup=1.4)
        run(tmp_path / f"o{seed}", "optimized", seed, accuracy=0.8, speedup=1.2)
    assert "our dense path is as fast, 1.40 ×" in recommend(only(tmp_path), 1.0).reason


def test_unstable_timing_is_said(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        run(tmp_path / f"d{seed}", seed=seed)
        content = json.loads((run(tmp_path / "t" / f"{seed}") / "record.json").read_text())
        timing = content["timing"] | {"stable": False, "speedup": 1.8, "speedup_low": 1.7}
        run(
            tmp_path / f"o{seed}",
            "optimized",
            seed,
            accuracy=0.8,
            timing=timing | {"speedup_high": 1.9},
        )
    shutil.rmtree(tmp_path / "t")
    assert "its timing was unstable" in headline(only(tmp_path))


def test_missing_predictions_are_not_taken_for_too_few_seeds(tmp_path: Path) -> None:
    for seed in range(1, 6):
        run(tmp_path / f"d{seed}", seed=seed, predictions=False)
        run(tmp_path / f"o{seed}", "fallback", seed, predictions=False)
    found = recommend(only(tmp_path), 1.0)
    assert "on 5 paired seeds; without an interval, since predictions" in found.reason
