"""Measure the memory of a process or of one step, in MB (10⁶ bytes)."""

import contextlib
import ctypes
import gc
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch
from torch import nn

_RESET = Path("/proc/self/clear_refs")


_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Measure the peak of memory from construction to `peak_mb()`.

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
        """Return the peak so far; None where the system does not tell."""
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


def step_memory(
    model: nn.Module,
    step: Callable[[], object],
    device: torch.device,
    beside: Iterable[torch.Tensor] = (),
) -> dict[str, float | None]:
    """Measure the memory of one step, in MB, however much else the process holds.

    Args:
        model: what the step trains.
        step: does one optimizer step; called twice.
        device: of the model.
        beside: what stays from step to step and is not the model's: the optimizer's state, the patch's
            buffers.

    Returns:
        `reserved_mb`: CUDA alone, what torch's allocator holds of the device at the step's peak, other
        models' memory included. `saved_mb`: what autograd keeps for a backward pass, each storage once,
        parameters left out. `peak_mb`: the parameters and buffers of `model` and what is `beside`, plus
        what the step adds at its peak, gradients included (CUDA: torch's allocations; CPU: resident
        bytes; null where the system does not tell).
    """
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in itertools.chain(model.parameters(), model.buffers(), beside)
    }
    saved = _SavedBytes(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        step()
    give_back_freed_memory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # what earlier steps left reserved is not this one's
        before: float | None = torch.cuda.memory_allocated(device) / 1e6
    else:
        before = psutil.Process().memory_info().rss / 1e6
    meter = PeakMemory(device)
    step()
    peak = meter.peak_mb() if meter.resettable else None
    added = None if peak is None or before is None else max(peak - before, 0.0)
    reserved = torch.cuda.max_memory_reserved(device) / 1e6 if device.type == "cuda" else None
    return {
        "reserved_mb": reserved,
        "saved_mb": saved.most / 1e6,
        "peak_mb": None if added is None else sum(storages.values()) / 1e6 + added,
    }


class _SavedBytes:
    """Count what autograd keeps for the backward passes of a step: the most of any one of them."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
        self._saved: set[int] = set()
        self._bytes = 0
        self._in_backward = False
        self.most = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._in_backward:  # the next micro-batch's forward pass
            self._saved, self._bytes, self._in_backward = set(), 0, False
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in self._parameters and place not in self._saved:
            self._saved.add(place)
            self._bytes += storage.nbytes()
            self.most = max(self.most, self._bytes)
        return tensor

    def unpack(self, tensor: torch.Tensor) -> torch.Tensor:
        self._in_backward = True
        return tensor


def give_back_freed_memory() -> None:
    """Give freed memory back to the system, which measures it.

    glibc keeps what was freed, for what comes next to use.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
