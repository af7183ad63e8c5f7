"""The study's figures to the digit."""

import importlib

import pytest

from sparselora.paths import PACKAGE

study = importlib.import_module("study_flops")


def test_the_studys_accounting_to_the_digit() -> None:
    dense = study.study_flops(0.0, None)
    assert (dense.lin1, dense.lin2, dense.total) == (2_359_296, 2_359_296, 4_718_592)
    original = study.study_flops(0.5, 8)
    assert (original.lin2, original.svd, original.total) == (1_179_648, 30_720, 3_569_664)
    assert round(1 - original.total / dense.total, 2) == 0.24
    optimized = study.study_flops(0.75, 4)
    assert (optimized.lin2, optimized.svd, optimized.total) == (589_824, 15_360, 2_964_480)
    assert round(1 - optimized.total / dense.total, 2) == 0.37
    second = study.STUDY_SECOND_TABLE
    assert second["svd"] == optimized.svd
    assert second["ffn"] + second["svd"] == second["total"]
    assert second["before"] == original.total + original.svd  # the SVD counted twice
    assert round(1 - second["total"] / second["before"], 2) == 0.39
    assert second["total"] != optimized.total
    assert study.sliced_ffn_flops(0.75) == dense.total // 4
    page = (PACKAGE.parent / "docs" / "flops.md").read_text()
    figures = [dense.total, original.total, original.lin2, optimized.total, optimized.lin2]
    figures += [*second.values(), study.sliced_ffn_flops(0.75)]
    assert all(f"{figure:,}" in page for figure in figures)


def test_the_command_prints_the_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["study_flops.py"])
    study.main()
    said = capsys.readouterr().out
    assert "optimized: lin1 2,359,296 + lin2 589,824 + SVD 15,360 = 2,964,480 (-37%)" in said
    assert "both sliced 1,179,648 (-75%)" in said
