import csv
import importlib
from pathlib import Path

import pytest

common = importlib.import_module("common")


def test_rows_come_back_as_text(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.csv"
    assert common.read_rows(path) == []
    common.write_rows(path, [{"case": "a, b", "ms": 1.5}])
    assert common.read_rows(path) == [{"case": "a, b", "ms": "1.5"}]
    common.write_rows(path, [], ["case"])
    assert path.read_text() == "case\n" or path.read_bytes() == b"case\r\n"


def test_rows_are_added_behind_the_first(tmp_path: Path) -> None:
    for number in range(3):
        common.add_row(tmp_path / "rows.csv", {"repeat": number})
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert [row["repeat"] for row in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.parametrize(("case", "places"), [("a", "AAbc"), ("b", "aaAAc"), ("d", "aabcAA")])
def test_a_case_is_replaced_where_it_stood(tmp_path: Path, case: str, places: str) -> None:
    path = tmp_path / "rows.csv"
    common.write_rows(path, [{"case": name, "part": name} for name in "aabc"])
    common.replace_case(path, case, [{"case": case, "part": "A"}] * 2)
    assert "".join(row["part"] for row in common.read_rows(path)) == places


def test_results_lie_in_the_repository() -> None:
    assert (common.RESULTS / "step.csv").is_file()
    parser = common.arguments("What?", "x.csv")
    assert parser.parse_args([]).out == common.RESULTS / "x.csv"
    assert "out" not in common.arguments("What?").parse_args([])


def test_settings_are_composed_and_checked() -> None:
    run = common.composed(["experiment=optimized", "train.threads=1"])
    assert (run.svd_rank, run.train.threads) == (4, 1)


def test_a_bench_that_fails_ends_the_script(tmp_path: Path) -> None:
    class Failed:
        args = ("python", "-m", "sparselora.bench")

        def wait(self) -> int:
            return 2

    with pytest.raises(SystemExit, match=r"the bench failed: .*sparselora\.bench"):
        common.finish_bench(Failed(), tmp_path)
