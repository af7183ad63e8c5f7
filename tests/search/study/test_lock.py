import threading
import time
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from sparselora.search.study.lock import storage_lock


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    url = make_url(f"sqlite:///{tmp_path / 'study.db'}")
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with storage_lock(url):
                inside += 1
                most = max(most, inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_error_lets_it_go(tmp_path: Path) -> None:
    url = make_url(f"sqlite:///{tmp_path / 'study.db'}")
    with pytest.raises(RuntimeError), storage_lock(url):
        raise RuntimeError
    with storage_lock(url):
        assert (tmp_path / "study.db.lock").exists()


def test_memory_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage_lock(make_url("sqlite://")), storage_lock(make_url("sqlite://")):
        assert list(tmp_path.iterdir()) == []
