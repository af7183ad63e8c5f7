"""Share between the commands errors as lines, exit codes, signals and a process fit for timing."""

import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable

from sparselora.cli import hydra_setup, messages
from sparselora.cli.command_line import parse_arguments
from sparselora.cli.preflight import preflight
from sparselora.cli.task import check_alone
from sparselora.errors import TrainingError
from sparselora.plugins import load_plugins

hydra_setup.install()

EXECUTION_WHITELIST = ["sparselora.report.callback.SweepTable", "logging.*", "colorlog.*"]
"""The only objects that the shipped configs instantiate; a config cannot name another."""


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt` (malloc.h)."""


def execute(hydra_main: Callable[[], object], unused: tuple[str, ...] = ()) -> int:
    """Check a command whole, then run it.

    Args:
        hydra_main: the task function, wrapped by `hydra.main`.
        unused: beginnings of the keys that this command does not look at.

    Returns:
        0, or 2 for a user's mistake, 1 for a run that failed, 130 for Ctrl-C or a signal to stop.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    steady_process()
    # PEFT loads it where it is installed, and it warns of a kernel that only evaluation would use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Hydra would print its own traceback and exit; this makes it raise to us instead.
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        arguments = parse_arguments()
        check_alone()
        load_plugins()
        preflight(arguments, unused)
        hydra_main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (*messages.USER_MISTAKES, TrainingError) as error:
        if wants_traceback:
            traceback.print_exc()
        print(f"error: {messages.explain(error)}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    except OSError as error:  # a folder that cannot be made or written to, a full disk
        if wants_traceback or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def steady_process() -> None:
    """Make a step on the CPU faster, and as fast as the next one; to be called before torch is loaded."""
    # Threads that wait for the others sleep; those of GNU's OpenMP spin a few microseconds first, by a
    # count that goes before the policy. With two threads on two cores a sparse step of DistilBERT's
    # sizes at 16 x 27 tokens took 273 ms so, 309 ms where they sleep at once, and 271 ms where they spin
    # on; beside another program's load on one core it took 527, 491 and 835 ms.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
    if sys.platform == "linux":
        # glibc returns large freed blocks to the system, by a threshold that moves with what the
        # process did before, and the next step faults their pages in again: up to 19,000 faults a
        # step of stock PEFT LoRA at 16 x 27 tokens, a tenth of its time. Other C libraries have no
        # mallopt, or ignore these.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        for parameter, value in ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0)):
            if mallopt is not None:
                mallopt(parameter, value)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
