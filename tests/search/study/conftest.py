from pathlib import Path

import pytest


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a study's file, in a folder that is not there yet."""
    return f"sqlite:///{tmp_path / 'there' / 'study.db'}"
