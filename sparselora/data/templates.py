"""Make a prompt, or a completion, of a table's row by a template: columns in braces."""

import string
from collections.abc import Callable, Mapping

from sparselora.errors import UserError

Cells = list[str | None]


def fill(key: str, template: str, cells_of: Callable[[str], Cells], rows: int) -> Cells:
    """Return the template of each row; None where every column that it names is missing.

    One missing cell of several is an empty text: such a column is optional.

    Args:
        key: of the template, for messages.
        template: columns in braces.
        cells_of: name → the texts of that column.
        rows: how many there are.

    Raises:
        UserError: see `template_fields`.
    """
    columns: Mapping[str, Cells] = {name: cells_of(name) for name in template_fields(key, template)}
    filled: Cells = []
    for row in range(rows):
        cells = {name: column[row] for name, column in columns.items()}
        if columns and not any(cell is not None and cell.strip() for cell in cells.values()):
            filled.append(None)
        else:
            filled.append(template.format(**{name: cell or "" for name, cell in cells.items()}))
    return filled


def template_fields(key: str, template: str) -> list[str]:
    """Return the columns that a template names, each once.

    Raises:
        UserError: braces that do not pair, or hold anything but a column's name; names `key`.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{key}={template!r}: {error}; {{column}} is allowed") from error
    names = [(name, form, conversion) for _, name, form, conversion in parsed if name is not None]
    for name, form, conversion in names:
        if not name or form or conversion or set(name) & set(".[]") or name.isdigit():
            raise UserError(f"{key}={template!r}: a column's name alone in braces is allowed")
    return list(dict.fromkeys(name for name, _, _ in names))


def template_end(template: str) -> str:
    """Return what follows the last column of a template; nothing of one without columns."""
    end: list[str] | None = None
    for literal, name, _, _ in string.Formatter().parse(template):
        if name is not None:
            end = []
        elif end is not None:
            end.append(literal)
    return "".join(end or [])
