"""The device that a run computes on, and the peak of its memory, in MB (10⁶ bytes)."""

from pathlib import Path

import psutil
import torch

from sparselora.errors import UserError

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        UserError: a CUDA device is asked for that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"train.device={name}: this machine shows {torch.cuda.device_count()} CUDA devices; "
            "auto or cpu is allowed"
        )
    return device


class PeakMemory:
    """From construction to `peak_mb()`.

    CUDA: bytes that torch's allocator handed out. CPU: resident bytes of the whole process; Linux
    keeps their peak and lets it be reset; elsewhere the peak since the process began is given, and
    `resettable` is False.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resettable = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            _RESET.write_text("5")
        except OSError:
            self.resettable = False

    def peak_mb(self) -> float | None:
        """The peak so far; null where the system does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        try:
            lines = _STATUS.read_text().splitlines()
        except OSError:
            info = psutil.Process().memory_info()
            peak = getattr(info, "peak_wset", None)
            return None if peak is None else peak / 1e6
        high = next((line for line in lines if line.startswith("VmHWM:")), None)
        return None if high is None else int(high.split()[1]) * 1024 / 1e6
