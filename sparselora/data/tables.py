"""Read files that hold a table: CSV, TSV, JSON, JSONL and Parquet, each cell as it stands there.

Nothing is guessed from a column: a text is a text, a whole number beside an empty cell stays whole, and
2^60 + 1 keeps its digits. What a cell is to a run is for `sparselora.data.cells` to say.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sparselora.data.delimited import DELIMITERS, read_delimited
from sparselora.errors import UserError


def endings() -> tuple[str, ...]:
    """Return the endings of the files that can be read."""
    return (*DELIMITERS, *_READERS)


def read_table(path: Path, quoting: str = "auto") -> pd.DataFrame:
    """Return the cells of a file, by its ending; columns hold objects, None where a cell is empty.

    Args:
        path: of the file.
        quoting: of CSV and TSV: `csv`: a field may stand in quotes, and go over several lines; `none`: a
            quote is a character as any other; `auto`: whichever the file is, see `read_delimited`.

    Raises:
        UserError: it cannot be read, or could mean two things; the message names the line.
    """
    ending = path.suffix.lower().removeprefix(".")
    try:
        if ending in DELIMITERS:
            frame = read_delimited(path, DELIMITERS[ending], quoting)
        else:
            frame = _READERS[ending](path)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path={path}: byte {error.start} is no UTF-8; save the file as UTF-8"
        ) from error
    except (ValueError, OSError, csv.Error, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"data.path={path}: cannot be read ({reason})") from error
    if frame.empty:
        raise UserError(f"data.path={path}: the file has no rows; at least one is needed")
    return frame


def _json(path: Path) -> pd.DataFrame:
    text = path.read_bytes().decode("utf-8-sig")
    try:
        found = json.loads(text)
    except ValueError:
        if not text.lstrip().startswith("{"):
            raise
        return _json_lines(path)  # which many call .json
    if isinstance(found, dict):  # by column, as pandas writes it
        columns = [
            list(column.values()) if isinstance(column, dict) else column
            for column in found.values()
        ]
        if all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:
            found = [dict(zip(found, row, strict=True)) for row in zip(*columns, strict=True)]
    if not isinstance(found, list):
        raise ValueError('a list of rows, [{"text": …}, …], is allowed')
    return _of_mappings((f"row {index}", row) for index, row in enumerate(found))


def _json_lines(path: Path) -> pd.DataFrame:
    def rows() -> Iterator[tuple[str, Any]]:
        # Not splitlines, which splits at characters that stand in texts too.
        for index, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), start=1):
            if line.strip():
                try:
                    yield f"line {index}", json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {index} is no JSON: {error}") from error

    return _of_mappings(rows())


def _of_mappings(rows: Iterator[tuple[str, Any]]) -> pd.DataFrame:
    kept: list[Mapping[str, Any]] = []
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}; an object of columns is allowed")
        kept.append(row)
    names = dict.fromkeys(name for row in kept for name in row)
    # By a Series each, or pandas would make lists and numbers of its own of them.
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in kept], dtype=object) for name in names}
    )


def _parquet(path: Path) -> pd.DataFrame:
    return of_arrow(pq.ParquetFile(path).read())


def of_arrow(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame whose whole numbers stay whole beside a null."""
    wide = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if any(field.type in wide for field in table.schema):  # pandas has no such columns
        schema = pa.schema(
            [field.with_type(wide.get(field.type, field.type)) for field in table.schema],
            metadata=table.schema.metadata,
        )
        table = table.cast(schema)
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "json": _json,
    "jsonl": _json_lines,
    "parquet": _parquet,
}
