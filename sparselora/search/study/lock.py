"""Lock a storage, so that processes and machines that share a study never race."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from filelock import FileLock
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

LOCK_NAME = "sparselora"
WAIT_SECONDS = 600
"""A process holds the lock while it draws a trial, some seconds."""


@contextmanager
def storage_lock(url: URL) -> Iterator[None]:
    """Keep all other processes out while the block runs; a process that dies lets them in.

    The lock is a file beside an SQLite database; on a server, one of the session, which ends with its
    connection.
    """
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database:  # in memory: nobody else sees it
            yield
            return
        with FileLock(f"{Path(url.database)}.lock", timeout=WAIT_SECONDS):
            yield
        return
    take, give = _STATEMENTS["postgresql" if backend == "postgresql" else "mysql"]
    values: dict[str, str | int] = {"name": LOCK_NAME, "number": crc32(LOCK_NAME.encode())}
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        taken = connection.execute(text(take), _used(take, values)).scalar()
        if backend != "postgresql" and taken != 1:
            raise TimeoutError(f"its lock was not to be had in {WAIT_SECONDS} s")
        connection.commit()
        try:
            yield
        finally:
            connection.execute(text(give), _used(give, values))
            connection.commit()


_STATEMENTS = {
    "postgresql": ("select pg_advisory_lock(:number)", "select pg_advisory_unlock(:number)"),
    "mysql": ("select get_lock(:name, 600)", "select release_lock(:name)"),
}


def _used(statement: str, values: dict[str, str | int]) -> dict[str, str | int]:
    return {name: value for name, value in values.items() if f":{name}" in statement}
