"""Write files that are whole or not there, and JSON that holds no made-up number."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)`, then put that file in place of `path`: whole, or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes the file private; a record is as readable as any file the user makes.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file by `content` as JSON: whole, or not at all; what is not finite becomes null."""
    text = json.dumps(finite(content), indent=1, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def finite(value: Any) -> Any:
    """Return a copy of nested values with None for NaN and infinities, which are no figures."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
