"""Load Optuna studies as pandas frames, and find what their objectives depend on."""

import contextlib
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from sparselora.errors import UserError

RUN_ID = "run_id"
"""User attribute of a trial: the run whose record it was told from."""
RUN_IDS = "run_ids"
"""The same of a trial over several seeds: a list."""


def is_url(source: str) -> bool:
    """Return whether a source is a storage of studies, not a folder."""
    return "://" in source


def load_study(
    url: str, study_name: str | None = None, records: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Load the trials of a study, a row each: number, state, values, parameters, user attributes.

    Args:
        url: of the storage, such as `sqlite:///outputs/study.db`.
        study_name: which, where the storage holds several.
        records: as `load_records` gives them; joined by run id, their columns as `run.COLUMN`. A trial
            over several seeds has means over its runs, and of what is no number the first. Trials
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
    trials = trials.rename(columns={f"user_attrs_{RUN_IDS}": RUN_IDS})
    if records is None or not {RUN_ID, RUN_IDS} & set(trials):
        return trials
    by_id = {str(key): rows.iloc[-1:] for key, rows in records.groupby(RUN_ID)}
    found, numbers = [], []
    for number, trial in trials.iterrows():
        several = trial.get(RUN_IDS)
        asked = several if isinstance(several, list) else [_text(trial.get(RUN_ID))]
        rows = [by_id[str(key)] for key in asked if str(key) in by_id]
        if rows:
            found.append(_mean_run(pd.concat(rows)))
            numbers.append(number)
    runs = pd.DataFrame(found, columns=records.columns).astype(records.dtypes, errors="ignore")
    runs.index = pd.Index(numbers)
    if RUN_ID in trials:
        trials[RUN_ID] = trials[RUN_ID].map(_text)
    return trials.join(runs.add_prefix("run."))


def _mean_run(runs: pd.DataFrame) -> pd.Series:
    first = runs.iloc[0].astype("object")
    if len(runs) > 1:
        numbers = runs.select_dtypes("float64").mean()
        first.update(numbers.astype("object"))
    return first


def importances(url: str, study_name: str | None = None) -> dict[str, dict[str, float]]:
    """Return each parameter's share of the variation of each objective.

    Empty where the trials are too few, or alike.
    """
    import optuna

    study = optuna.load_study(study_name=_name(url, study_name), storage=url)
    names = study.metric_names or [f"objective {n}" for n in range(len(study.directions))]
    # Named trials have no parameters, and those answered from another say nothing new.
    drawn = optuna.create_study(directions=study.directions)
    drawn.add_trials(
        [
            trial
            for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
            if trial.params and trial.user_attrs.get("duplicate_of") is None
        ]
    )
    maximize = optuna.study.StudyDirection.MAXIMIZE
    signs = [-1 if direction is maximize else 1 for direction in study.directions]
    found = {}
    for index, name in enumerate(names):

        def objective(
            trial: optuna.trial.FrozenTrial, index: int = index, sign: int = signs[index]
        ) -> float:
            # What counts is what makes the target low.
            return sign * float(trial.values[index])

        try:
            with warnings.catch_warnings():  # of just that
                warnings.filterwarnings("ignore", "PedAnova", UserWarning)
                shares = optuna.importance.get_param_importances(drawn, target=objective)
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
