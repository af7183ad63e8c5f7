"""Lock a device: training shares the lock, timing has it alone.

Concurrent jobs of one user on one machine train in parallel; while one of them times, the others stand
still. Training holds the lock for a step and lets it go again, so a job that wants to time waits for
what each other is at: a step, a batch of an evaluation, or at a job's start its data, model and
calibration. The time before that, in which a job loads its libraries, is under no lock; nor does the lock
of one device keep jobs of another still.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, ReadWriteLock, Timeout

from sparselora.errors import UserError


class DeviceLock:
    """Lock one device of this machine, shared or alone, for this user.

    A job that wants it alone takes the gate first and keeps it, and every one that shares passes the
    gate; so new sharers wait behind it, and however many there are it is served. Not to be taken twice
    by one job.
    """

    def __init__(self, device: torch.device) -> None:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        folder = Path(tempfile.gettempdir()) / f"sparselora-locks-{user}"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the lock folder {folder} cannot be made ({error.strerror or error}); set TMPDIR "
                "to a folder that can be written"
            ) from error
        name = folder / _name(device)
        self._gate = FileLock(f"{name}.gate", poll_interval=0.02)
        self._lock = ReadWriteLock(f"{name}.lock")
        self.waited_seconds = 0.0
        """How long this job has waited for others in all."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock beside other sharers, never beside a job that times."""
        began = time.perf_counter()
        with self._gate:
            self._lock.acquire_read()
        self.waited_seconds += time.perf_counter() - began
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock while every other job that uses it stands still."""
        began = time.perf_counter()
        with self._gate:
            self._acquire_alone()
            self.waited_seconds += time.perf_counter() - began
            try:
                yield
            finally:
                self._lock.release()

    def _acquire_alone(self) -> None:
        # In short waits: a signal would not get through one long wait inside SQLite.
        while True:
            try:
                self._lock.acquire_write(timeout=0.2)
            except Timeout:
                continue
            return


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    # The index depends on CUDA_VISIBLE_DEVICES; the hardware's own name does not.
    index = device.index or 0
    visible = index < torch.cuda.device_count()
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", index) if visible else index
    return f"cuda-{uuid}"
