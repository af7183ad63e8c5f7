"""Render two sets of records in one table: two machines, two commits, two sweeps."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report import formats
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.analysis.predictions import Predictions
from sparselora.report.analysis.statistics import Bootstrap
from sparselora.report.loading.load import flatten


def side_by_side(records: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """Return a row for each setting that both sets ran with the same model, data, LoRA and budget.

    `points` is the accuracy of the second less that of the first, paired by seed, with the bootstrap
    over groups and seeds where both hold predictions on the same examples. Speed-ups stand beside each
    other whatever the devices; ms/step only where they are of one device.
    """
    first, second = (compare(frame) for frame in records)
    return of_comparisons(first, second)


def of_comparisons(first: Sequence[Comparison], second: Sequence[Comparison]) -> pd.DataFrame:
    """Return the rows of `side_by_side` from two sets of comparisons."""
    rows = []
    for one in first:
        for two in second:
            if (one.model, one.data) == (two.model, two.data):
                rows += _rows(one, two)
    return pd.DataFrame(rows, columns=list(_HEADS))


_HEADS = {
    "setting": "setting",
    "device": "device",
    "accuracy_a": "A, %",
    "accuracy_b": "B, %",
    "points": f"B − A, points ({formats.INTERVAL})",
    "seeds": "paired seeds",
    "speedup_a": f"A {formats.SPEEDUP} ({formats.INTERVAL})",
    "speedup_b": f"B {formats.SPEEDUP} ({formats.INTERVAL})",
    "ms_a": f"A {formats.MS}",
    "ms_b": f"B {formats.MS}",
}


def _rows(one: Comparison, two: Comparison) -> list[dict[str, Any]]:
    same = one.device == two.device
    # A key that only one commit knows tells no two settings apart.
    key_one, key_two = _keys(one), _keys(two)
    common = {name for key in key_one.values() for name in key}
    common &= {name for key in key_two.values() for name in key}
    theirs: dict[str, list[dict[Any, Any]]] = {}
    for row in two.table.to_dict("records"):
        theirs.setdefault(_restricted(key_two[row["config"]], common), []).append(row)
    own = [_restricted(key_one[row["config"]], common) for row in one.table.to_dict("records")]
    predictions = one.predictions, two.predictions
    rows = []
    for key, row in zip(own, one.table.to_dict("records"), strict=True):
        others = theirs.get(key, [])
        if len(others) > 1 or own.count(key) > 1:  # they differ in what the other does not know
            others = [each for each in others if each["setting"] == row["setting"]]
        if len(others) != 1:
            continue
        (other,) = others
        runs = [
            {seed: each for (key, seed), each in found.items() if key == setting["config"]}
            for found, setting in zip(predictions, (row, other), strict=True)
        ]
        rows.append(
            {
                "setting": row["setting"],
                "device": one.device if same else f"A {one.device}, B {two.device}",
                "accuracy_a": f"{row['accuracy'] * 100:.2f}",
                "accuracy_b": f"{other['accuracy'] * 100:.2f}",
                **_difference(runs[0], runs[1]),
                "speedup_a": _speedup(row),
                "speedup_b": _speedup(other),
                "ms_a": formats.cell(row["ms_per_step"] if same else None, "{:.1f}"),
                "ms_b": formats.cell(other["ms_per_step"] if same else None, "{:.1f}"),
            }
        )
    return rows


def _keys(comparison: Comparison) -> dict[str, dict[str, Any]]:
    return {key: flatten(json.loads(key), "config") for key in comparison.table["config"]}


def _restricted(config: dict[str, Any], names: set[str]) -> str:
    return json.dumps({name: config[name] for name in sorted(names) if name in config})


def _difference(first: dict[int, Predictions], second: dict[int, Predictions]) -> dict[str, Any]:
    shared = first.keys() & second.keys()
    if not shared:
        return {"points": formats.MISSING, "seeds": 0}
    one = first[min(shared)]
    bootstrap = Bootstrap(one.examples, one.groups)
    if not all(bootstrap.fits(each) for each in [*first.values(), *second.values()]):
        return {"points": "other examples", "seeds": 0}
    gap = bootstrap.difference(second, first)
    assert gap is not None
    ends = [None if share is None else share * 100 for share in (gap.mean, gap.low, gap.high)]
    return {"points": formats.with_interval(*ends, form="{:+.2f}"), "seeds": gap.seeds}


def _speedup(row: dict[Any, Any]) -> str:
    ends = (row[name] for name in ("speedup", "speedup_low", "speedup_high"))
    return formats.with_interval(*ends, form="{:.2f}")


def print_side_by_side(frame: pd.DataFrame, names: tuple[str, str], console: Console) -> None:
    """Print two sets of records side by side, and which is A and which is B."""
    table = Table(title=escape(f"A: {names[0]}; B: {names[1]}"), title_justify="left")
    empty = [name for name in frame if frame[name].astype(str).eq(formats.MISSING).all()]
    shown = [name for name in map(str, frame) if name == "setting" or name not in empty]
    for name in shown:
        left = name == "setting"
        table.add_column(_HEADS[name], justify="left" if left else "right", overflow="fold")
    for row in frame[shown].itertuples(index=False):
        table.add_row(*(escape(str(value)) for value in row))
    console.print(table)
    if frame["device"].str.startswith("A ").any():
        console.print(
            "Two devices: only speed-ups, each over stock LoRA there, can be set together."
        )
