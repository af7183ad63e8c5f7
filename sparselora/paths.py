"""Find the shipped configuration and the user's cache."""

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent
CACHE_VARIABLE = "SPARSELORA_CACHE"
"""The environment variable that names another cache folder."""


def cache_folder() -> Path:
    """Return the folder of what is fetched or computed once: $SPARSELORA_CACHE, or the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("sparselora"))


def shipped(name: str) -> Path:
    """Return the absolute path of a shipped folder, `conf` or `sweeps`.

    It lies inside the installed package, or beside it in a checkout.
    """
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


CONF = shipped("conf")
SWEEPS = shipped("sweeps")
