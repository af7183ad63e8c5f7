"""Where the shipped configuration lies: inside the installed package, or beside it in a checkout."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The absolute path of a shipped folder, `conf` or `sweeps`."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


CONF = shipped("conf")
SWEEPS = shipped("sweeps")
