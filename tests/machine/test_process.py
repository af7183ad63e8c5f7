import subprocess
import sys

from sparselora.machine.process import identity, is_dead


def test_this_process_lives_and_a_gone_one_does_not() -> None:
    own = identity()
    assert not is_dead(own)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    assert is_dead(own | {"pid": int(gone.stdout)})


def test_a_number_given_again_is_another_process() -> None:
    own = identity()
    assert is_dead(own | {"process_start": own["process_start"] - 1000})


def test_another_boot_is_dead_and_another_machine_is_left_alone() -> None:
    own = identity()
    assert is_dead(own | {"boot_id": "before"})
    assert not is_dead(own | {"host": "elsewhere", "boot_id": "before", "pid": 1})
