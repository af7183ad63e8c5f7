import argparse

import pytest

from sparselora.errors import LONGEST_REASON, UserError, in_one_line, refuse_in_a_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (OSError("no such file"), "no such file"),
        (KeyError("name"), "KeyError: 'name'"),
        (ValueError(), "ValueError"),
        (RuntimeError("x"), "RuntimeError: x"),
    ],
)
def test_what_another_package_says_is_one_line(error: Exception, line: str) -> None:
    assert in_one_line(error) == line


def test_a_long_reason_is_cut() -> None:
    line = in_one_line(ValueError("x" * 1000))
    assert line == "x" * LONGEST_REASON + "…"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--drop")
    made.add_argument("folders", nargs="*")
    refuse_in_a_line(made)
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dorp=3"], "--dorp=3: unknown flag; did you mean --drop?"),
        (["--svd_rank=3"], "--svd_rank=3: unknown flag; settings have no dashes: svd_rank=3"),
        (["--nothing-like-it"], "unknown flag; --help shows what there is"),
        (["--drop"], "expected one argument"),
    ],
)
def test_a_parsers_mistake_is_ours(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parser().parse_args(arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_right_is_parsed() -> None:
    assert parser().parse_args(["one", "--drop", "3"]).drop == "3"
