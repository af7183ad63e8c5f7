from pathlib import Path

import pytest

from sparselora.errors import UserError
from sparselora.search.study.storage import Storage


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nonsense", "a URL such as"),
        ("oracle://x", "sqlite, postgresql or mysql"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be used"),
        ("sqlite:////proc/none/study.db", "cannot be made"),
        ("sqlite:///.", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_a_line(
    bad: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        Storage(bad)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"hydra.sweeper.storage={bad}: ")


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/none"
    with pytest.raises(UserError) as raised:
        Storage(url)
    assert "secret" not in str(raised.value)


def test_an_error_under_the_lock_is_a_line(url: str) -> None:
    storage = Storage(url)
    assert storage.name == url
    with (
        pytest.raises(UserError, match=r"^hydra\.sweeper\.storage=.*disk is gone"),
        storage.locked(),
    ):
        raise OSError("disk is gone")
    with storage.locked():  # which was let go
        pass


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage(None)
    assert storage.name == "memory"
    with storage.locked():
        pass
    assert list(tmp_path.iterdir()) == []
