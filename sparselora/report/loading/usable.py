"""Tell which records a report can use, and what is the matter with the others."""

import json
from typing import Any

import pandas as pd

from sparselora.records.record import COMPLETED, SCHEMA_VERSION


def where(records: pd.DataFrame) -> list[str]:
    """Return device and threads of each run: what its times may be compared within."""
    places = []
    for device, threads in zip(records["device"], records["threads"], strict=True):
        count = "" if pd.isna(threads) else f", {threads:g} thread{'' if threads == 1 else 's'}"
        places.append(f"{_or(device, 'unknown device')}{count}")
    return places


def is_usable(records: pd.DataFrame) -> pd.Series:
    """Return which runs can be compared: completed, with an accuracy, a configuration and a seed."""
    seeds = records["seed"].astype("float64")
    whole = seeds.notna() & (seeds.abs() < 2**53) & (seeds % 1 == 0)
    completed = records["status"].eq(COMPLETED).fillna(False).astype(bool)
    return completed & _is_share(records["accuracy"]) & records["setting"].notna() & whole


def _is_share(accuracy: pd.Series) -> pd.Series:
    return accuracy.between(0.0, 1.0)


def family(pairing: str) -> str:
    """Return what the runs of one table share: a run's `pairing` without its seed."""
    parts = json.loads(pairing)
    parts.pop("seed", None)
    return json.dumps(parts, sort_keys=True)


def problems(records: pd.DataFrame) -> pd.DataFrame:
    """List the records that a report cannot use, or not wholly: `folder`, and why in `problem`."""
    usable, shares = is_usable(records), _is_share(records["accuracy"])
    ordered = records[usable].sort_values("started", kind="stable", na_position="first")
    seeds = ordered["seed"].astype("float64")
    families = [family(key) for key in ordered["pairing"]]
    ordered = ordered.assign(where=where(ordered), family=families, number=seeds)
    repeated = ordered.duplicated(["family", "where", "setting", "number"], keep="last")
    replaced = set(ordered.index[repeated])
    rows = []
    looked_at = records[["folder", "status", "error", "accuracy", "schema_version"]]
    for index, row in zip(records.index, looked_at.to_dict("records"), strict=True):
        older, status = row["schema_version"], _or(row["status"], "no status")
        if status != COMPLETED:
            problem = status if pd.isna(row["error"]) else f"{status}: {row['error']}"
        elif pd.isna(row["accuracy"]):
            problem = "completed, but holds no validation accuracy"
        elif not shares[index]:
            problem = f"its accuracy is {row['accuracy']:g}, and no share from 0 to 1"
        elif not usable[index]:
            problem = "completed, but holds no configuration with a seed"
        elif index in replaced:
            problem = "left out: a later run has the same setting and seed"
        elif pd.isna(older) or older != SCHEMA_VERSION:
            problem = f"schema version {_or(older, 'missing')}, this is {SCHEMA_VERSION}"
        else:
            continue
        rows.append({"folder": row["folder"], "problem": problem})
    return pd.DataFrame(rows, columns=["folder", "problem"])


def _or(value: Any, other: str) -> str:
    return other if pd.isna(value) else str(value)
