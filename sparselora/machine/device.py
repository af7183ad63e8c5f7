"""Choose the device that a run computes on, and its threads."""

from functools import cache

import torch

from sparselora.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` is CUDA where there is one.

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


@cache
def _default_threads() -> int:
    return torch.get_num_threads()


def use_threads(threads: int | None) -> None:
    """Set torch's CPU threads; None is torch's own choice, whatever an earlier run of the process set."""
    default = _default_threads()
    torch.set_num_threads(threads or default)
