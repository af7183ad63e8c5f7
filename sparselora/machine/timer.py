"""Time optimizer steps, on the clock of the device that runs them."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class StepTimer:
    """Time what runs between `start` and `stop`; read later, so that nothing waits for the device.

    On CUDA the two are events in the stream of the work; on the CPU the monotonic clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start: Any = None
        self._stop: Any = None

    def start(self) -> None:
        """Begin to time."""
        self._start = self._now()

    def stop(self) -> None:
        """End the time."""
        self._stop = self._now()

    def wait(self) -> None:
        """Wait until the device has reached `stop`."""
        if self._device.type == "cuda":
            self._stop.synchronize()

    def milliseconds(self) -> float:
        """Return the milliseconds between `start` and `stop`; wait for the device first."""
        self.wait()
        if self._device.type == "cuda":
            return float(self._start.elapsed_time(self._stop))
        return (self._stop - self._start) * 1e3

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        # Of this device, which need not be the process's current one.
        event.record(torch.cuda.current_stream(self._device))
        return event


def quantiles(milliseconds: Sequence[float]) -> dict[str, float | int | None]:
    """Return how many steps there are, and their 10th, 50th and 90th percentile and mean, in ms.

    Percentiles and mean are None where there is no step.
    """
    if not milliseconds:
        return {"steps": 0, "p10": None, "p50": None, "p90": None, "mean": None}
    low, middle, high = np.quantile(milliseconds, [0.1, 0.5, 0.9]).tolist()
    return {
        "steps": len(milliseconds),
        "p10": low,
        "p50": middle,
        "p90": high,
        "mean": float(np.mean(milliseconds)),
    }
