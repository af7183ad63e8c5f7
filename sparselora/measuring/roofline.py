"""Probe what a device can do at best: rate of matrix products, bandwidth of copies."""

from collections.abc import Callable

import torch

from sparselora.machine.timer import StepTimer

REPEATS = 7


def roofline(device: torch.device, dtype: torch.dtype) -> dict[str, float | str]:
    """Time a (2048, 2048) product and a copy of 256 MB; return the best of a few repeats.

    Args:
        device: that is probed.
        dtype: of the product.

    Returns:
        `matmul_gflops` (10⁹ a second, a multiply-add counted twice), `copy_gb_per_second` (10⁹ bytes
        read and written), `dtype`.
    """
    size = 2048
    one = torch.randn(size, size, device=device, dtype=dtype)
    product = torch.empty_like(one)
    # Written first: pages that never were are all one page of zeros, which stays in the cache.
    source = torch.ones(64_000_000, device=device, dtype=torch.float32)
    target = torch.zeros_like(source)

    def best(work: Callable[[], object]) -> float:
        times = []
        for _ in range(REPEATS):
            timer = StepTimer(device)
            timer.start()
            work()
            timer.stop()
            times.append(timer.milliseconds())
        return min(times) / 1e3

    seconds = best(lambda: torch.mm(one, one, out=product))
    moved = best(lambda: target.copy_(source))
    return {
        "matmul_gflops": 2 * size**3 / seconds / 1e9,
        "copy_gb_per_second": 2 * source.numel() * source.element_size() / moved / 1e9,
        "dtype": str(dtype).removeprefix("torch."),
    }
