import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselora import load_records
from sparselora.report.analysis.comparison import compare
from sparselora.report.analysis.rows import (
    SETTING_COLUMNS,
    command,
    difference,
    distinct_names,
    figures,
    front,
)
from tests.report.synthetic import run


def rows(root: Path) -> pd.DataFrame:
    (only,) = compare(load_records(root))
    return only.table.set_index("setting")


def test_figures_are_columns_and_means_over_seeds(tmp_path: Path) -> None:
    for seed, accuracy, speedup in ((1, 0.7, 1.5), (2, 0.8, 1.6), (3, 0.9, 2.0)):
        run(tmp_path / f"{seed}", "s", seed, accuracy=accuracy, speedup=speedup)
    row = figures(load_records(tmp_path), reference_ms=90.0)
    assert row.keys() <= SETTING_COLUMNS.keys()
    assert row["seeds"] == 3
    assert row["accuracy"] == pytest.approx(0.8)
    assert row["speedup"] == pytest.approx((1.5 * 1.6 * 2.0) ** (1 / 3))
    assert row["ms_per_step"] == pytest.approx(90.0 / row["speedup"])
    assert figures(load_records(tmp_path), reference_ms=None)["ms_per_step"] is None


def test_differences_are_paired_by_seed() -> None:
    ours = pd.DataFrame({"seed": [1, 2, 3], "accuracy": [0.8, 0.7, 0.1]})
    plain = pd.DataFrame({"seed": [2, 1, 9], "accuracy": [0.75, 0.9, 0.5]})
    found = difference(ours, plain)
    assert found["paired_seeds"] == 2
    assert found["delta_points"] == pytest.approx(-7.5)
    assert difference(ours, plain[plain["seed"].eq(9)]) == {}


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    table = pd.DataFrame(
        {"ms_per_step": [10, 20, 20, 30, None], "accuracy": [0.7, 0.8, 0.79, 0.8, 0.9]}
    )
    assert front(table) == [True, True, False, False, False]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_the_front_is_never_empty_and_nothing_on_it_is_beaten(
    points: list[tuple[int, int]],
) -> None:
    table = pd.DataFrame(points, columns=["ms_per_step", "accuracy"])
    kept = [point for point, on_front in zip(points, front(table), strict=True) if on_front]
    assert kept
    for ms, accuracy in kept:
        assert not any(a >= accuracy and m <= ms and (m, a) != (ms, accuracy) for m, a in points)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "a (2)"]), min_size=1, max_size=6))
def test_no_two_names_are_alike(labels: list[str]) -> None:
    groups = [
        (str(n), pd.DataFrame({"label": [label], "overrides": [[f"x={n}", "seed=1"]]}))
        for n, label in enumerate(labels)
    ]
    names = distinct_names(groups)
    assert len(set(names)) == len(names)
    for name, label in zip(names, labels, strict=True):
        assert name == label or labels.count(label) > 1


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda text: not text.startswith("+sweep="))))
def test_a_shell_reads_a_command_as_it_was_given(overrides: list[str]) -> None:
    line = command({"overrides": overrides})
    assert line is not None
    assert shlex.split(line) == ["python", "-m", "sparselora.run", *overrides]


def test_settings_of_one_label_can_be_told_apart(tmp_path: Path) -> None:
    for index, decay in enumerate(("0.1", "0.2")):
        config = json.loads((run(tmp_path / f"t{index}") / "record.json").read_text())["config"]
        config["estimator"]["tokens"] = int(float(decay) * 10)
        run(
            tmp_path / f"{index}",
            "same",
            config=config,
            overrides=[f"estimator.tokens={decay}", "seed=1"],
        )
    names = rows(tmp_path).index.tolist()
    assert "same estimator.tokens=0.1" in names
    assert "same estimator.tokens=0.2" in names


def test_command_survives_a_shell(tmp_path: Path) -> None:
    run(tmp_path / "a", overrides=["layer_sparsity={layer.0: 0.5}", "tags=[a b]"])
    command = rows(tmp_path)["command"].iloc[0]
    assert command == "python -m sparselora.run 'layer_sparsity={layer.0: 0.5}' 'tags=[a b]'"


def test_a_command_that_is_not_known_is_none(tmp_path: Path) -> None:
    run(tmp_path / "a", overrides=None)
    assert rows(tmp_path)["command"].tolist() == [None]


@pytest.mark.parametrize("speedup", [0, -1.0, "fast", None])
def test_timings_that_are_none_are_left_out(tmp_path: Path, speedup: object) -> None:
    timing = {"speedup": speedup, "speedup_low": speedup, "speedup_high": speedup}
    run(tmp_path / "a", timing=timing)
    assert rows(tmp_path)["speedup"].isna().all()
