"""Read CSV and TSV files, whose quotes are either RFC 4180's or plain characters."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pandas as pd

from sparselora.errors import UserError

DELIMITERS = {"csv": ",", "tsv": "\t"}
NEARLY = 0.9
"""Share of a file's lines that makes nearly all."""

Row = tuple[int, list[str]]
"""The line that a row begins on, from 1, and its fields."""


def read_delimited(path: Path, delimiter: str, quoting: str) -> pd.DataFrame:
    """Return the cells of a CSV or TSV, None where one is empty.

    Read with the wrong one of the two, a text that begins with a quote swallows all lines up to the next
    quote, without an error. So `auto` reads both ways. Where rows differ it takes the quoted reading only
    if that is well-formed and the lines alone are not; anything else is the user's to say.
    """
    text = path.read_bytes().decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds a NUL character, so it is no text file")
    plain = list(_rows(text, delimiter, csv.QUOTE_NONE)) if quoting != "csv" else []
    if quoting == "none" or (plain and '"' not in text):
        return _frame(path, plain)
    if quoting == "csv":  # with stray quotes as they come
        return _frame(path, list(_rows(text, delimiter, csv.QUOTE_MINIMAL, strict=False)))
    try:
        quoted = list(_rows(text, delimiter, csv.QUOTE_MINIMAL))
    except csv.Error as error:
        lenient = list(_rows(text, delimiter, csv.QUOTE_MINIMAL, strict=False))
        if len(lenient) != len(plain):
            raise _swallowed(path, lenient, plain) from error
        if _is_even(plain) and not _quotes_whole_fields(plain):
            return _frame(path, plain)  # quotes inside of texts, in a file that quotes nothing
        raise UserError(
            f"data.path={path}: its quotes do not pair as in CSV ({error}); a field that holds quotes "
            "stands in quotes, its own quotes twice; data.quoting=csv takes them as they come, "
            "data.quoting=none as characters"
        ) from error
    if len(quoted) == len(plain):  # quotes around texts, or that pair across two cells of a line
        return _frame(path, plain if _is_even(plain) and not _is_even(quoted) else quoted)
    if _fits(quoted) and not _is_even(plain) and not _hides_rows(quoted, plain):
        return _frame(path, quoted)  # texts of several lines
    raise _swallowed(path, quoted, plain)


def _quotes_whole_fields(plain: Sequence[Row]) -> bool:
    """Return whether a tenth of the rows have a field in quotes, as a file that quotes has."""
    quoted = sum(
        any(len(field) > 1 and field[0] == field[-1] == '"' for field in fields)
        for _, fields in plain
    )
    return quoted > (1 - NEARLY) * len(plain)


def _hides_rows(quoted: Sequence[Row], plain: Sequence[Row]) -> bool:
    """Return whether quotes seem to hide rows.

    That is where nearly every line has the header's number of fields, and a row of several lines begins
    and ends with such a line: a text of several lines cuts its row short at one of its ends.
    """
    width = len(quoted[0][1])
    if sum(len(fields) == width for _, fields in plain) < NEARLY * len(plain):
        return False
    starts = [line for line, _ in quoted]
    ends = dict(zip(starts, [*starts[1:], plain[-1][0] + 1], strict=True))
    lines = {line: len(fields) for line, fields in plain}
    for start, end in ends.items():
        inside = [lines[line] for line in range(start, end) if line in lines]
        if len(inside) > 1 and inside[0] == inside[-1] == width:
            return True
    return False


def _swallowed(path: Path, quoted: Sequence[Row], plain: Sequence[Row]) -> UserError:
    starts = {line for line, _ in quoted}
    first = next(line for line, _ in plain if line not in starts)
    return UserError(
        f"data.path={path}: has {len(quoted) - 1} rows if quotes are CSV's, {len(plain) - 1} if they are "
        f"plain characters: line {first} would be part of the text before it; say data.quoting=csv or "
        "data.quoting=none"
    )


def _rows(text: str, delimiter: str, quoting: Literal[0, 3], strict: bool = True) -> Iterator[Row]:
    """Yield the rows that are not blank, by Python's csv; strictly, a stray quote is an error."""
    with _long_fields():
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter,
            quoting=quoting,
            strict=strict,
        )
        line = 1
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _fits(rows: Sequence[Row]) -> bool:
    return all(len(fields) <= len(rows[0][1]) for _, fields in rows)


def _is_even(rows: Sequence[Row]) -> bool:
    return len({len(fields) for _, fields in rows}) <= 1


def _frame(path: Path, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows below the header; a shorter one lacks its last cells, a longer one is refused."""
    if not rows:
        raise ValueError("it is empty")
    (_, header), *body = rows
    width = len(header)
    if body and all(len(fields) == width + 1 for _, fields in body):
        raise UserError(
            f"data.path={path}: each row has one field more than the header names ({width}), as where "
            "rows have names; a name for that column is needed in the header"
        )
    for line, fields in body:
        if any(fields[width:]):
            raise UserError(
                f"data.path={path}: line {line} has {len(fields)} fields where the header names "
                f"{width}; a field that holds the delimiter stands in quotes"
            )
    columns = [
        [(fields[place] or None) if place < len(fields) else None for _, fields in body]
        for place in range(width)
    ]
    frame = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    frame.columns = pd.Index(header, dtype=object)
    return frame
