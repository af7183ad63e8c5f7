"""`bench.json` files → one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report.table import CUDA_NOTE


def print_bench(rows: Sequence[tuple[dict[str, Any], Path]], console: Console) -> None:
    """A row a setting; the fastest first."""
    table = Table(title="Interleaved in one process; × is over stock PEFT LoRA")
    for name in ("setting", "model", "batch", "stock ms", "our dense ms", "sparse ms"):
        table.add_column(name, justify="left" if name in ("setting", "model") else "right")
    for name in ("× stock", "95 %", "× our dense", "bound", "of bound", "MB", "MB stock"):
        table.add_column(name, justify="right")
    for content, _ in sorted(rows, key=lambda row: -row[0]["speedup"]):
        memory = (content["peak_memory_mb"], content["dense_peak_memory_mb"])
        own, efficiency = content["own_speedup"], content["efficiency"]
        table.add_row(
            escape(content["label"]),
            escape(content["model"]),
            f"{content['batch_size']} × {content['mean_length']:.0f}",
            f"{content['stock_dense_ms']:.1f}",
            f"{content['own_dense_ms']:.1f}",
            "–" if content["sparse_ms"] is None else f"{content['sparse_ms']:.1f}",
            f"{content['speedup']:.3f}",
            f"{content['speedup_low']:.3f} to {content['speedup_high']:.3f}",
            "–" if own is None else f"{own:.3f}",
            f"{content['bound']:.3f}",
            "–" if efficiency is None else f"{efficiency:.1%}",
            *("–" if value is None else f"{value:,.0f}" for value in memory),
        )
    console.print(table)
    for content, path in rows:
        if not content["stable"]:
            interval = f"{content['aa_low']:.3f} to {content['aa_high']:.3f}"
            console.print(
                f"{content['label']}: unstable, stock against itself {interval}", markup=False
            )
        console.print(f"{content['label']}: {path}", markup=False, soft_wrap=True)
    devices = {content["provenance"]["device"] for content, _ in rows}
    if len(devices) > 1:
        console.print("Several devices: times of one say nothing about another's.")
    if any(content["provenance"]["device_type"] == "cuda" for content, _ in rows):
        console.print(CUDA_NOTE)


def load_benches(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Every `bench.json` below a folder."""
    paths = sorted(folder.rglob("bench.json"))
    return [(json.loads(path.read_text()), path) for path in paths]
