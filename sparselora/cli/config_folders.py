"""Find a command's config files: in `conf/`, in folders of the user's own, or in an earlier run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hydra.core.config_search_path import SearchPathQuery

from sparselora.errors import UserError
from sparselora.paths import CONF, PACKAGE
from sparselora.search import compat


def rerun(folder: str) -> tuple[str, list[str]]:
    """Return the name of the config, and the overrides, that Hydra wrote into a run's folder.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    try:
        name, saved = compat.rerun_overrides(folder)
    except Exception as error:  # whatever the files hold in place of what Hydra left there
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise UserError(
            f"--experimental-rerun {folder}: cannot be read ({reason.splitlines()[0]}); the folder of "
            "a run, with its .hydra, is allowed"
        ) from error
    return name or "config", saved


@contextlib.contextmanager
def config_folders(primary: str | None, extra: str | None) -> Iterator[None]:
    """Let Hydra compose from `conf/`, or from the folders that a command gives in place or beside.

    Args:
        primary: of `--config-path`, below the package where it is relative.
        extra: of `--config-dir`.

    Raises:
        UserError: one that is not there.
    """
    main = str(CONF)
    if primary is not None:
        scheme = primary.startswith(("pkg://", "file://"))
        main = primary if scheme else str(PACKAGE / primary)
        if not scheme and not Path(main).is_dir():
            raise UserError(
                f"--config-path {primary}: no such folder; a relative one is below {PACKAGE}"
            )
    search_path = compat.config_search_path(main)
    if extra is not None:
        folder = Path(extra).resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir {extra}: no such folder")
        search_path.prepend(
            provider="command-line",
            path=f"file://{folder}",
            anchor=SearchPathQuery(provider="schema"),
        )
    with compat.composing_from(search_path):
        yield
