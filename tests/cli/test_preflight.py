import re

import pytest

from tests.cli.lines import Invoke, assert_one_line, tiny


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("+sweep=tradeoff", "tpe, random"),  # which has parameters that not all trials share
        ("hydra/sweeper=search hydra.sweeper.study_name=x svd_rank=2,3", "tpe, random, grid"),
        (
            "hydra/sweeper=search hydra.sweeper.study_name=x svd_rank=2,3 hydra.sweeper.named=[]",
            "tpe, random, grid, gp, nsgaii",
        ),
    ],
)
@pytest.mark.parametrize("sampler", ["foo", "cmaes", "qmc"])
def test_only_samplers_that_are_taken_are_listed(
    invoke: Invoke, tiny_overrides: list[str], line: str, taken: str, sampler: str
) -> None:
    timed = tiny(tiny_overrides, ("measure.timing=after",))
    outcome = invoke(*timed, "-m", *line.split(), f"hydra/sweeper/sampler={sampler}")
    assert_one_line(outcome, "hydra/sweeper/sampler")
    listed = re.search(r"(?:must be one of|search;) (.*?)(?: are)?$", outcome.message[0])
    assert listed is not None, outcome.message[0]
    assert listed[1] == taken


def test_a_table_without_data_table(invoke: Invoke, tiny_overrides: list[str]) -> None:
    kept = [each for each in tiny_overrides if each != "data=table"]
    for columns in (True, False):
        rest = kept if columns else [each for each in kept if "_column" not in each]
        outcome = invoke(*rest, "svd_rank=3")
        assert_one_line(outcome, "data.path=", "lines.csv", "data=table")


@pytest.mark.parametrize("place", ["/proc/nowhere/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_one_line(
    invoke: Invoke, tiny_overrides: list[str], place: str
) -> None:
    outcome = invoke(*tiny_overrides, "svd_rank=3", f"hydra.run.dir={place}")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert place.rsplit("/", 1)[0] in outcome.message[-1]
