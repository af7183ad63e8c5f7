"""What the benchmarks share: arguments, rows in a CSV, the place of results, composed settings."""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparselora.config.schema import RunConfig

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
Row = Mapping[str, Any]


def arguments(question: str | None, out: str | None = None) -> argparse.ArgumentParser:
    """Return a parser that explains itself with a module's docstring.

    Args:
        question: the docstring.
        out: file under `docs/results` that `--out` stands for where it is not given; None for a
            script without this argument.
    """
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.RawTextHelpFormatter
    )
    if out is not None:
        parser.add_argument("--out", type=Path, default=RESULTS / out)
    return parser


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file as text; none where it is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row], fields: Iterable[str] | None = None) -> None:
    """Write a CSV file of these rows and no others.

    Args:
        path: its folder is made where it is missing.
        rows: at least one, unless `fields` are given.
        fields: names and order of the columns; those of the first row where they are not given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0] if fields is None else fields))
        writer.writeheader()
        writer.writerows(rows)


def replace_case(path: Path, case: str, rows: Sequence[Row]) -> None:
    """Write rows in the place of those of their case, which the column `case` names."""
    older = read_rows(path)
    places = [index for index, row in enumerate(older) if row["case"] == case]
    at = places[0] if places else len(older)
    before = [row for row in older[:at] if row["case"] != case]
    after = [row for row in older[at:] if row["case"] != case]
    write_rows(path, [*before, *rows, *after], rows[0])


def add_row(path: Path, row: Row) -> None:
    """Add a row to the end of a CSV file, which begins with it where it is missing."""
    if not path.exists():
        write_rows(path, [row])
        return
    with path.open("a", newline="") as file:
        csv.DictWriter(file, list(row)).writerow(row)


def composed(overrides: Sequence[str]) -> "RunConfig":
    """Return the checked settings that a command line of these overrides would have."""
    from hydra import compose, initialize_config_dir

    from sparselora.cli import hydra_setup
    from sparselora.config.checks import parse_config
    from sparselora.paths import CONF

    hydra_setup.install()
    with initialize_config_dir(str(CONF)):
        return parse_config(compose("config", list(overrides)))


def start_bench(overrides: Sequence[str], folder: Path) -> "subprocess.Popen[bytes]":
    """Start one `sparselora.bench` in a process of its own."""
    command = [sys.executable, "-m", "sparselora.bench", *overrides, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def finish_bench(process: "subprocess.Popen[bytes]", folder: Path) -> dict[str, Any]:
    """Wait for a bench, and return what it wrote."""
    if process.wait():
        raise SystemExit(f"the bench failed: {process.args!r}; see {folder}")
    content: dict[str, Any] = json.loads((folder / "bench.json").read_text())
    return content
