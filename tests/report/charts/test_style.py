import pytest

from sparselora.report.charts.style import PALETTE, dicts


@pytest.mark.parametrize("value", [None, "ab", 3, {"a": 1}, float("nan")])
def test_what_is_no_list_holds_no_mapping(value: object) -> None:
    assert dicts(value) == []


def test_only_mappings_are_kept() -> None:
    assert dicts([{"a": 1}, 2, None, {}]) == [{"a": 1}, {}]


def test_colours_differ() -> None:
    assert len(set(PALETTE)) == len(PALETTE)
