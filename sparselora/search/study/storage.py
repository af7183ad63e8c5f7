"""Open a study's storage, with a line for whatever stands in the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, get_storage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from sparselora.errors import UserError
from sparselora.search.study.lock import storage_lock

BUSY_SECONDS = 60.0
"""How long a write to an SQLite file waits for another's."""


class Storage:
    """Hold a storage that processes share, and the lock over it.

    Args:
        url: see `SearchConfig.storage`; None for one in memory.

    Raises:
        UserError: it cannot be reached or written.
    """

    def __init__(self, url: str | None) -> None:
        self.url = _parse(url or "sqlite://")
        self.name = self.url.render_as_string(hide_password=True) if url else "memory"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if url is None:
            self.optuna: BaseStorage = InMemoryStorage()
            return
        options = {}
        if self.url.get_backend_name() == "sqlite":
            if not self.url.database:
                raise UserError(f"hydra.sweeper.storage={url}: a file is needed; null is memory")
            options = {"connect_args": {"timeout": BUSY_SECONDS}}
            folder = Path(self.url.database).resolve().parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"hydra.sweeper.storage={url}: {folder} cannot be made ({error.strerror})"
                ) from error
        with self.locked():  # tables are made by one process only
            self.optuna = get_storage(RDBStorage(url, engine_kwargs=options))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes out of the storage; its errors come as a `UserError`."""
        try:
            with storage_lock(self.url):
                yield
        except (SQLAlchemyError, StorageInternalError, ImportError, OSError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"hydra.sweeper.storage={self.name}: cannot be used ({reason}); what was recorded "
                "stays, and the same command goes on from it"
            ) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise UserError(
            f"hydra.sweeper.storage={url}: a URL such as sqlite:///outputs/study.db, "
            "postgresql+psycopg://user@host/name or mysql+pymysql://… is allowed"
        ) from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise UserError(f"hydra.sweeper.storage={url}: sqlite, postgresql or mysql is allowed")
    return parsed
