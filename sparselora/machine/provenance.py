"""Describe where a run came from: code, versions, machine and process."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sparselora.machine.process import identity
from sparselora.paths import PACKAGE

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "hydra-core",
    "omegaconf",
    "optuna",
    "numpy",
    "pandas",
)


def provenance(device: torch.device) -> dict[str, Any]:
    """Return code, versions, machine and process; None for what the system does not tell."""
    return {
        "git": git_state(),
        "versions": package_versions(),
        "device": device_name(device),
        "device_type": device.type,
        "cuda": _cuda(device),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT"),
        "platform": platform.platform(),
        "load_average": load_average(),
        **identity(),
    }


def load_average() -> list[float] | None:
    """Return how many processes run or wait, over 1, 5 and 15 minutes."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python, this package and those that a run's outcome depends on."""
    own = {"python": platform.python_version(), "sparselora": _version("sparselora")}
    return own | {package: _version(package) for package in PACKAGES}


@cache
def git_state() -> dict[str, Any]:
    """Return commit and dirty flag of the checkout in use; None for both where there is none."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


@cache
def device_name(device: torch.device) -> str:
    """Return what the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()} ({os.cpu_count()} cores)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def _cuda(device: torch.device) -> dict[str, Any] | None:
    # Clocks (kHz) and caches (bytes) decide a step's time as much as the name does.
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    names = ["total_memory", "multi_processor_count", "L2_cache_size"]
    names += ["clock_rate", "memory_clock_rate"]
    return {name: getattr(properties, name, None) for name in names}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
