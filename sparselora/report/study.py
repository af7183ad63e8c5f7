"""Optuna studies → pandas frames, and what their objectives depend on."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd

from sparselora.errors import UserError

RUN_ID = "run_id"
"""User attribute of a trial: the run whose record it was told from."""


def is_url(source: str) -> bool:
    """Whether a source is a storage of studies, not a folder."""
    return "://" in source


def load_study(
    url: str, study_name: str | None = None, records: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The trials of a study, a row each: number, state, values, parameters, user attributes.

    Args:
        url: of the storage, such as `sqlite:///outputs/study.db`.
        study_name: which, where the storage holds several.
        records: as `load_records` gives them; joined by run id, their columns as `run.COLUMN`. Trials
            without a record, and records without a trial, stay or are left out.

    Raises:
        UserError: the storage cannot be reached, or holds no such study.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=_name(url, study_name), storage=url)
    attributes = ("number", "state", "value", "datetime_start", "duration", "params", "user_attrs")
    trials = study.trials_dataframe(attrs=attributes)
    if trials.empty:
        trials = pd.DataFrame({"number": [], "state": []})
    trials = trials.rename(columns={f"user_attrs_{RUN_ID}": RUN_ID})
    if records is None or RUN_ID not in trials:
        return trials
    # A trial without a run joins none: missing keys are equal to each other in a merge.
    trials[RUN_ID] = trials[RUN_ID].map(_text)
    joined = records[records[RUN_ID].notna()].drop_duplicates(RUN_ID, keep="last")
    joined = joined.astype({RUN_ID: "object"}).add_prefix("run.")
    trials[RUN_ID] = trials[RUN_ID].astype("object")
    return trials.merge(joined, how="left", left_on=RUN_ID, right_on=f"run.{RUN_ID}")


def importances(url: str, study_name: str | None = None) -> dict[str, dict[str, float]]:
    """Objective → parameter → share of its variation; empty where the trials are too few or alike."""
    import optuna

    study = optuna.load_study(study_name=_name(url, study_name), storage=url)
    names = study.metric_names or [f"objective {n}" for n in range(len(study.directions))]
    found = {}
    for index, name in enumerate(names):

        def objective(trial: optuna.trial.FrozenTrial, index: int = index) -> float:
            return float(trial.values[index])

        try:
            shares = optuna.importance.get_param_importances(study, target=objective)
        except (ValueError, RuntimeError):  # fewer than two finished trials, or nothing varies
            continue
        if shares:
            found[str(name)] = {str(key): float(share) for key, share in shares.items()}
    return found


def _name(url: str, study_name: str | None) -> str:
    import optuna
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            _check_sqlite(url, parsed.database)
        names = optuna.study.get_all_study_names(storage=url)
    except (SQLAlchemyError, sqlite3.Error, ImportError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{url}: the study's storage cannot be reached ({first})") from error
    if study_name is None and len(names) == 1:
        return str(names[0])
    if study_name in names:
        return str(study_name)
    listed = ", ".join(map(str, names)) or "none"
    asked = "give --study" if study_name is None else f"no study {study_name!r}"
    raise UserError(f"{url}: {asked}; it holds {listed}")


def _text(value: Any) -> str | None:
    if pd.isna(value):
        return None
    # pandas makes floats of whole numbers beside missing ones.
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _check_sqlite(url: str, database: str | None) -> None:
    # Optuna would make the file that it does not find, and its tables in one that is another's.
    path = Path(database or "")
    if not path.is_file():
        raise UserError(f"{url}: no such database")
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        if ("studies",) not in tables.fetchall():
            raise UserError(f"{url}: holds no study")
