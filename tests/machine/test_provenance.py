import subprocess
from pathlib import Path

import pytest
import torch

from sparselora.machine import provenance
from sparselora.paths import PACKAGE


@pytest.fixture
def fresh() -> None:
    provenance.git_state.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_the_commit_is_that_of_the_checkout_in_use() -> None:
    """Found from this file's own place, it was lost when the file moved one folder deeper."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert provenance.git_state()["commit"] == head.stdout.strip()


@pytest.mark.usefixtures("fresh")
def test_an_installed_package_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "site-packages" / "sparselora")
    assert provenance.git_state() == {"commit": None, "dirty": None}
    provenance.git_state.cache_clear()


def test_what_a_record_says_of_its_machine() -> None:
    found = provenance.provenance(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["sparselora"] is not None
    assert found["device_type"] == "cpu"
    assert found["cuda"] is None
    assert "cores)" in found["device"]
    assert found["pid"] > 0
