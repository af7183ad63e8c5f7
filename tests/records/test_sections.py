import json
from pathlib import Path
from typing import Any

import pytest

from sparselora.records.record import RECORD_NAME, read_record
from sparselora.records.typed import Section

EXAMPLES = Path(__file__).parents[2] / "docs" / "example" / "runs"


def without_extra(value: Any) -> Any:
    """Return a section's values as a file holds them, but for what no field took."""
    if isinstance(value, Section):
        names = [name for name in vars(value) if name != "extra"]
        return {name: without_extra(getattr(value, name)) for name in names}
    return [without_extra(item) for item in value] if isinstance(value, list) else value


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {path: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in leaves(item, f"{path}.{key}").items()
    }


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob(RECORD_NAME)), ids=str)
def test_older_records_keep_their_figures(file: Path) -> None:
    stored = json.loads(file.read_text())
    found = read_record(file.parent)
    assert found is not None
    written = leaves(found.to_dict())  # beside them what came later, as null
    assert {key: written.get(key) for key in leaves(stored)} == leaves(stored)
    typed, gone = (
        leaves(without_extra(found)),
        {".timing.total_speedup", ".timing.total_dense_speedup"},
    )
    lost = {
        name for name, value in leaves(stored).items() if value is not None and name not in typed
    }
    assert lost <= gone
    assert found.final is not None
    assert found.final.accuracy == stored["metrics"]["validation"]["accuracy"]
