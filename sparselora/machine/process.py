"""Identify a process well enough to tell a live one from a dead one."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def identity() -> dict[str, Any]:
    """Return this process's host, boot, number and start; None for what the system does not tell."""
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid": os.getpid(),
        "process_start": psutil.Process().create_time(),
    }


def is_dead(other: Mapping[str, Any]) -> bool:
    """Return whether the process with this identity has surely ended.

    Of a process on another machine this is never sure.
    """
    if other["host"] != socket.gethostname():
        return False
    if other["boot_id"] != _boot_id():
        return True
    try:
        # A number is given again after a while, but not with the same start.
        started = psutil.Process(other["pid"]).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started - other["process_start"]) > 2.0


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
