"""Three processes, one study on a PostgreSQL server, which is started here for the test."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sparselora.search.study.attributes import ENDED, FOLDER, NAMED
from tests.search.conftest import SEARCH

WORKERS, TRIALS = 3, 10


def server_programs() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of an empty database on loopback; the server has a user of its own, as it refuses root."""
    programs = server_programs()
    root = os.getuid() == 0
    missing = programs is None or (
        root and "postgres" not in {one.pw_name for one in pwd.getpwall()}
    )
    if missing:
        reason = "no PostgreSQL server: install Debian's package `postgresql`"
        if os.environ.get("CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    assert programs is not None
    user = "postgres" if root else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql"))
    if user is not None:
        shutil.chown(folder, user)
    port = free_port()

    def server(*command: str) -> None:
        program, *rest = command
        subprocess.run(
            [str(programs / program), *rest],
            check=True,
            cwd="/",
            user=user,
            stdout=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    server("initdb", "-D", data, "-A", "trust", "-U", "sparselora", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    server("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql+psycopg://sparselora@127.0.0.1:{port}/postgres"
    finally:
        server("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def worker(storage: str, tiny_overrides: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    own = {item.split("=")[0]: item for item in SEARCH}
    own["hydra.sweeper.objectives"] = "hydra.sweeper.objectives=[accuracy,ms_per_step]"
    own["measure.timing"] = "measure.timing=after"
    rest = [item for item in tiny_overrides if item.split("=")[0] not in own]
    few = ["measure.min_rounds=2", "measure.max_rounds=2", "measure.batches=1"]
    study = [f"hydra.sweeper.storage={storage}", f"hydra.sweeper.n_trials={TRIALS}"]
    folder.mkdir()
    command = [sys.executable, "-m", "sparselora.run", *own.values(), *rest, *few, *study]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_three_processes_share_one_study(
    postgresql: str, tiny_overrides: list[str], tmp_path: Path
) -> None:
    workers = [
        worker(postgresql, tiny_overrides, tmp_path / f"worker{number}")
        for number in range(WORKERS)
    ]
    for process in workers:
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output[-3000:]
    trials = optuna.load_study(study_name="tradeoff", storage=postgresql).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    assert not any(ENDED in trial.user_attrs for trial in trials)
    named = [trial.user_attrs.get(NAMED) for trial in trials]
    assert named == ["dense", "original", "optimized", "fallback"] + [None] * (TRIALS - 4)
    references, folders = set(), set()
    for trial in trials:
        folder = Path(trial.user_attrs[FOLDER])
        record = json.loads((folder / "record.json").read_text())
        assert record["status"] == "completed"
        accuracy, ms_per_step = trial.values
        assert accuracy == record["metrics"]["validation"]["accuracy"]
        assert ms_per_step == record["ms_per_step"]
        assert record["ms_per_step"] == pytest.approx(
            record["dense_reference_ms"] / record["timing"]["speedup"]
        )
        references.add(record["dense_reference_ms"])
        folders.add(folder)
    assert len(references) == 1
    assert len(folders) == TRIALS
    assert len({folder.parent for folder in folders}) > 1
