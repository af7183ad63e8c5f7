from pathlib import Path

import pytest

from sparselora.paths import CONF


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A config folder of a user's own: a model, a data set and two sweeps."""
    folder = tmp_path / "my conf"
    for group in ("data", "sweep", "experiment"):
        (folder / group).mkdir(parents=True)
    table = (CONF / "data" / "table.yaml").read_text()
    (folder / "data" / "mine.yaml").write_text(table.replace("table", "mine"))
    (folder / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nlora:\n  r: 2\nhydra:\n  sweeper:\n    params:\n      svd_rank: 2,3\n"
    )
    return folder
