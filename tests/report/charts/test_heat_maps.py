from pathlib import Path
from typing import Any

from sparselora import load_records
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.charts.heat_maps import (
    MAX_ROWS,
    accuracy_by_rank_and_sparsity,
    sparsity_by_layer,
    speedup_by_rank_and_sparsity,
)
from tests.report.synthetic import run


def only(root: Path) -> Comparison:
    (comparison,) = compare(load_records(root))
    return comparison


def cells(chart: Any) -> list[dict[str, Any]]:
    (rows,) = chart.to_dict(validate=False)["datasets"].values()
    return list(rows)


def test_each_layer_is_a_cell(tmp_path: Path) -> None:
    run(tmp_path / "a", "optimized")
    run(tmp_path / "b")  # dense: no layer leaves anything out
    chart = sparsity_by_layer(only(tmp_path))
    assert [(row["layer"], row["sparsity"]) for row in cells(chart)] == [
        (0, 0),
        (1, 0.25),
        (2, 0.5),
    ]
    run(tmp_path / "dense" / "b")
    assert sparsity_by_layer(only(tmp_path / "dense")) is None


def test_more_settings_than_can_be_read_are_cut(tmp_path: Path) -> None:
    for index in range(MAX_ROWS + 3):
        run(tmp_path / f"{index}", f"s{index}", ffn_sparsity=index / 100, predictions=False)
    assert len({row["setting"] for row in cells(sparsity_by_layer(only(tmp_path)))}) == MAX_ROWS


def test_a_grid_needs_two_ranks_and_two_sparsities(tmp_path: Path) -> None:
    for index, (rank, share) in enumerate([(4, 0.5), (8, 0.5), (4, 0.7)]):
        run(tmp_path / f"{index}", f"s{index}", svd_rank=rank, ffn_sparsity=share, accuracy=0.8)
        if index == 1:
            assert accuracy_by_rank_and_sparsity(only(tmp_path)) is None
    found = cells(accuracy_by_rank_and_sparsity(only(tmp_path)))
    assert {(row["svd_rank"], row["ffn_sparsity"]) for row in found} == {
        (4, 0.5),
        (8, 0.5),
        (4, 0.7),
    }
    assert all(round(row["accuracy"], 6) == 80.0 for row in found)
    assert all(row["speedup"] == 1.5 for row in cells(speedup_by_rank_and_sparsity(only(tmp_path))))
