"""Render `bench.json` files as one table on a terminal."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.records.record import BENCH_NAME
from sparselora.report import formats


def _number(key: str, form: str) -> Callable[[dict[str, Any]], str]:
    return lambda content: formats.cell(content[key], form)


def _share(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda content: formats.cell(content["achieved"][key], "{:.1%}")


def _model(content: dict[str, Any]) -> str:
    quantization = content["config"]["model"].get("quantization", "none")
    return str(content["model"]) + ("" if quantization == "none" else f" ({quantization})")


_ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("model", lambda content: escape(_model(content))),
    (
        "examples × tokens",
        lambda content: f"{content['batch_size']} × {content['mean_length']:.0f}",
    ),
    ("rounds", _number("rounds", "{}")),
    (f"stock dense, {formats.MS}", _number("stock_dense_ms", "{:.1f}")),
    (f"our dense, {formats.MS}", _number("own_dense_ms", "{:.1f}")),
    (f"sparse, {formats.MS}", _number("sparse_ms", "{:.1f}")),
    (formats.SPEEDUP, _number("speedup", "{:.3f}")),
    (
        formats.INTERVAL,
        lambda content: formats.interval(content["speedup_low"], content["speedup_high"], "{:.3f}"),
    ),
    (formats.OWN_SPEEDUP, _number("own_speedup", "{:.3f}")),
    (formats.BOUND, _number("bound", "{:.3f}")),
    (formats.OF_BOUND, _number("efficiency", "{:.1%}")),
    ("stock against itself", _number("aa_speedup", "{:.3f}")),
    ("matmul rate reached, dense", _share("own_dense")),
    ("matmul rate reached, sparse", _share("sparse")),
    ("gathers, at copy bandwidth", _share("gather")),
    ("peak memory, MB", _number("peak_memory_mb", "{:,.0f}")),
    ("peak memory of stock, MB", _number("dense_peak_memory_mb", "{:,.0f}")),
    ("saved for backward, MB", _number("saved_for_backward_mb", "{:,.0f}")),
    ("the same of stock, MB", _number("dense_saved_for_backward_mb", "{:,.0f}")),
)


def print_bench(rows: Sequence[tuple[dict[str, Any], Path]], console: Console) -> None:
    """Print a table for each device, with a column for each setting, the fastest first."""
    devices = {content["provenance"]["device"]: None for content, _ in rows}
    for device in devices:
        of_device = [row for row in rows if row[0]["provenance"]["device"] == device]
        ordered = sorted(of_device, key=lambda row: -row[0]["speedup"])
        table = Table(title=f"Interleaved in one process, on {escape(device)}")
        table.add_column("")
        for content, _ in ordered:
            table.add_column(escape(content["label"]), justify="right", overflow="fold")
        for name, of in _ROWS:
            table.add_row(name, *(of(content) for content, _ in ordered))
        console.print(table)
    for content, path in rows:
        if not content["stable"]:
            interval = formats.interval(content["aa_low"], content["aa_high"], "{:.3f}")
            console.print(
                f"{content['label']}: unstable, stock against itself {interval}", markup=False
            )
        console.print(f"{content['label']}: {path}", markup=False, soft_wrap=True)
    if any(content["random_weights"] for content, _ in rows):
        console.print("Random weights: the speed is real, an accuracy would mean nothing.")


def load_benches(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Read every `bench.json` below a folder."""
    paths = sorted(folder.rglob(BENCH_NAME))
    return [(json.loads(path.read_text()), path) for path in paths]
