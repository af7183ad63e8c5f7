"""Tables to load, in every format, and what came of them."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparselora.config.groups import DataConfig
from sparselora.data.load import LoadedData

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


def config(path: Path, **changes: Any) -> DataConfig:
    return DataConfig(name="mine", path=str(path), **changes)


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    """Each format by a writer that keeps whole numbers whole."""
    names = list(rows[0])
    ending = path.suffix[1:]
    if ending in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="," if ending == "csv" else "\t")
            writer.writerow(names)
            writer.writerows(
                ["" if row[name] is None else row[name] for name in names] for row in rows
            )
    elif ending == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    return path


def examples(data: LoadedData) -> dict[str, tuple[Any, ...]]:
    found = {}
    for name, split in data.splits.items():
        for row, example in enumerate(split.example_ids):
            label = data.label_names[split.labels[row]] if split.labels else None
            pair = split.pairs[row] if split.pairs else None
            answer = split.completions[row] if split.completions else None
            found[example] = (name, split.texts[row], pair, label, answer, split.groups[row])
    return found


QUOTED_LINES = [f"line {n}\t{'ab'[n % 2]}" for n in range(40)]


def tsv(folder: Path, lines: list[str], ending: str = "tsv") -> Path:
    path = folder / f"lines.{ending}"
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    return path


MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def chats(rows: int = 60, parts: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "question "},
                        {"type": "text", "text": str(n)},
                    ]
                    if parts
                    else f"question {n}",
                },
                {"role": "assistant", "content": f"answer {n}"},
            ]
        }
        for n in range(rows)
    ]
