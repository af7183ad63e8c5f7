"""Read the predictions of runs, example by example, and say why some cannot be used."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sparselora.records.record import PREDICTIONS_NAME

SAME_ACCURACY = 1e-4
"""Beyond this a record and its predictions are not of one evaluation."""


@dataclass(frozen=True)
class Predictions:
    """Hold which validation examples one run predicted correctly after its last step."""

    correct: np.ndarray
    """(n,), bool, by ascending example id."""
    examples: np.ndarray
    """(n,), the ids."""
    groups: np.ndarray
    """(n,), the group of each example."""


def load_predictions(folder: Path, split: str = "validation") -> Predictions | None:
    """Return a run's last predictions on a split; None where they are missing or cannot be read."""
    try:
        file = pq.ParquetFile(folder / PREDICTIONS_NAME)
        # A classifier's logits; of completions, whether each is right.
        predicted = ["correct"] if "correct" in file.schema_arrow.names else ["label", "logits"]
        # Threads of its own would only get in the way of the callers'.
        table = file.read(["split", "step", "example_id", "group", *predicted], use_threads=False)
        of_split = pa.compute.equal(table["split"], split).to_numpy()
        steps = np.where(of_split, table["step"].to_numpy(), -1)
        rows = np.flatnonzero(of_split & (steps == steps.max(initial=-1)))
        if not len(rows):
            return None
        if rows[-1] - rows[0] + 1 == len(rows):  # one evaluation, written at once: nothing to copy
            last = table.slice(rows[0], len(rows))
        else:
            last = table.take(rows)
        correct = _correct(last)
        if correct is None:
            return None
        order, examples, groups = _in_order(last["example_id"], last["group"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None
    return Predictions(correct[order], examples, groups)


def _correct(rows: pa.Table) -> np.ndarray | None:
    if "correct" in rows.column_names:
        return rows["correct"].to_numpy().astype(bool)
    logits = rows["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(logits).all():
        return None
    predicted: np.ndarray = logits.reshape(len(rows), -1).argmax(axis=1)
    return predicted == rows["label"].to_numpy()


_ORDERED: dict[int, tuple[Any, Any, tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}


def _in_order(
    examples: pa.ChunkedArray, groups: pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the order of ascending ids, with ids and groups in it; made once for the same examples."""
    key = len(examples)
    earlier = _ORDERED.get(key)
    if earlier is not None and earlier[0].equals(examples) and earlier[1].equals(groups):
        return earlier[2]
    ids = examples.to_numpy()
    ids = ids.astype(str) if ids.dtype == object else ids
    order = np.argsort(ids, kind="stable")
    found = (order, ids[order], groups.to_numpy().astype(str)[order])
    _ORDERED[key] = (examples, groups, found)
    return found


def predictions_of(
    runs: pd.DataFrame,
) -> tuple[dict[tuple[str, int], Predictions], dict[tuple[str, int], str]]:
    """Return predictions by setting and seed, and of the other runs why theirs cannot be used."""
    folders = [Path(str(folder)) for folder in runs["folder"]]
    # Reading and decoding let other threads run; more of them than cores only wait for each other.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(load_predictions, folders))
    keys = zip(runs["setting"].astype(str), runs["seed"].astype(int), strict=True)
    predictions, problems = {}, {}
    for key, each, accuracy in zip(keys, found, runs["accuracy"], strict=True):
        if each is None:
            problems[key] = "no interval: its predictions are missing, or cannot be read"
        elif abs(float(each.correct.mean()) - accuracy) > SAME_ACCURACY:
            share = f"{each.correct.mean():.4f}"
            problems[key] = f"no interval: its predictions say {share}, its record {accuracy:.4f}"
        else:
            predictions[key] = each
    return predictions, problems


def limited_runs(runs: pd.DataFrame, problems: Mapping[tuple[str, int], str]) -> pd.DataFrame:
    """Return `folder` and `problem` of each run that `problems` names, by setting and seed."""
    rows = [
        {"folder": folder, "problem": problems[key, seed]}
        for folder, key, seed in zip(runs["folder"], runs["setting"], runs["seed"], strict=True)
        if (key, seed) in problems
    ]
    return pd.DataFrame(rows, columns=["folder", "problem"])
