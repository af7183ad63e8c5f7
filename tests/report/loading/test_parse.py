import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparselora import load_records
from sparselora.report.loading.parse import parse_record
from tests.report.synthetic import run


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1e999", "9" * 30])
def test_numbers_that_no_column_holds(tmp_path: Path, number: str) -> None:
    # The one stopped every report, the other every script of its page.
    path = run(tmp_path / "a") / "record.json"
    text = path.read_text().replace('"trained": 1000', f'"trained": {number}')
    path.write_text(text.replace('"svd_rank": 4', f'"svd_rank": {number}'))
    (value,) = load_records(tmp_path)["trained_parameters"].tolist()
    assert pd.isna(value) or value == 1e30
    assert "Infinity" not in load_records(tmp_path)["setting"].iloc[0]


def test_characters_that_cannot_be_drawn_are_replaced(tmp_path: Path) -> None:
    # One in a label ended the painter, and with it the report.
    run(tmp_path / "a", "a\x1b[31mb\uffffc\nd\ud800", experiment="\x01")
    (row,) = load_records(tmp_path).to_dict("records")
    assert row["label"] == "a\ufffd[31mb\ufffdc\nd?"
    assert row["experiment"] == "\ufffd"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"a"', "[" * 100_000])
def test_what_is_no_object_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises((ValueError, RecursionError)):
        parse_record(tmp_path / "record.json")


def plain(value: Any) -> bool:
    """Whether a file and a page can hold a value."""
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        value.encode()
        return not set(value) & {"\x00", "\x1b", "\ufffe", "\uffff"}
    return True


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(st.text(), VALUES))
def test_whatever_stands_there_becomes_plain(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    assert plain(parse_record(path))
