"""The device's lock between processes."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from sparselora.machine import lock as lock_module
from sparselora.machine.lock import DeviceLock


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of the test's own, so that runs on this machine are not stopped."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(lock_module.tempfile, "tempdir", str(tmp_path))


def train(folder: str, log: str) -> None:
    lock_module.tempfile.tempdir = folder
    lock = DeviceLock(torch.device("cpu"))
    with Path(log).open("w") as file:
        while not (Path(folder) / "stop").exists():
            with lock.shared():
                began = time.time()
                time.sleep(0.02)
                file.write(f"{began} {time.time()}\n")
                file.flush()


def test_timing_stands_alone_and_is_served_however_many_train(tmp_path: Path) -> None:
    latest = time.time() + 120  # each loads torch first, on a machine that may be slow
    context = multiprocessing.get_context("spawn")
    logs = [str(tmp_path / f"log{index}") for index in range(3)]
    processes = [context.Process(target=train, args=(str(tmp_path), log)) for log in logs]
    for process in processes:
        process.start()
    while not all(
        (Path(log).exists() and Path(log).read_text()) or not process.is_alive()
        for log, process in zip(logs, processes, strict=True)
    ):
        time.sleep(0.05)
        if time.time() > latest:
            break
    lock = DeviceLock(torch.device("cpu"))
    alone = []
    for _ in range(3):
        asked = time.time()
        with lock.alone():
            alone.append((time.time(), asked))
            time.sleep(0.2)
            alone[-1] = (*alone[-1], time.time())
        time.sleep(0.05)
    time.sleep(1.5)
    (tmp_path / "stop").touch()
    for process in processes:
        process.join()
    steps = [
        tuple(map(float, line.split()))
        for log in logs
        for line in Path(log).read_text().splitlines()
    ]
    assert len(steps) > 30
    for began, asked, ended in alone:
        assert began - asked < 2.0
        assert not [step for step in steps if step[0] < ended - 1e-3 and step[1] > began + 1e-3]
    # They do train side by side otherwise.
    assert any(one[0] < other[0] < one[1] for one in steps for other in steps if one is not other)
    assert lock.waited_seconds > 0.01  # half a holder's time; the lock's own cost is far below


def test_devices_have_locks_of_their_own() -> None:
    with DeviceLock(torch.device("cuda", 0)).alone(), DeviceLock(torch.device("cuda", 1)).alone():
        pass
