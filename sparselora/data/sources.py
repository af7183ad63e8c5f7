"""Read the data from where they come from: the embedded set, a function, a table, or a hub."""

import re
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselora.data import assets
from sparselora.data.splits import SPLITS
from sparselora.data.tables import endings, of_arrow, read_table
from sparselora.errors import UserError, in_one_line

if TYPE_CHECKING:
    from sparselora.config.groups import DataConfig


PREFIX = "dataset:"
"""What `data.path` begins with where a registered function gives the data."""
Read = Callable[["DataConfig"], Mapping[str, pd.DataFrame]]
_REGISTERED: dict[str, tuple[int, Read]] = {}
_NUMBERS = count(1)


def register_dataset(name: str, read: Read) -> None:
    """Make a function's rows a data set of one's own, named by `data.path=dataset:NAME`.

    The settings of `data` hold for them as for a table: which columns to take, which labels to keep.
    To register a name once more puts the new function in place of the earlier one.

    Args:
        name: of the data set; `conf/data/NAME.yaml` makes it an option, `data=NAME`.
        read: `(config: DataConfig) -> Mapping[str, pandas.DataFrame]`: one frame a split, by `train`,
            `validation` and `test` (the last two may be left out), or one under `all`, to be split by a
            hash of the group. It must give the same rows each time: runs are compared by them.

    Raises:
        UserError: the name is not one, or `read` is no function.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UserError(
            f"register_dataset({name!r}): a name of letters, digits, dots, dashes and underscores is "
            "allowed"
        )
    if not callable(read):
        raise UserError(f"register_dataset({name!r}): {read!r}: a function is allowed")
    _REGISTERED[name] = (next(_NUMBERS), read)


def registration(path: str) -> int | None:
    """Return the number of the registration that a path names, None where it names none.

    Another function of the same name has another number; numbers are of this process alone.
    """
    name = path.removeprefix(PREFIX)
    return _REGISTERED[name][0] if path.startswith(PREFIX) and name in _REGISTERED else None


def read_frames(config: "DataConfig") -> dict[str, pd.DataFrame]:
    """Return the rows that `data.path` names: by split, or under `all` where they are not split.

    Raises:
        UserError: a file or data set that cannot be read.
    """
    if config.path.startswith(PREFIX):
        return _read_registered(config)
    if config.path.startswith(assets.PREFIX):
        table = _asset_table(config.path)
        assert table is not None
        return {"all": read_table(Path(assets.resolve(config.path)) / table, config.quoting)}
    path = Path(config.path).expanduser()
    if path.is_file():
        return {"all": read_table(path, config.quoting)}
    return _read_hub(config, path)


def check_path(config: "DataConfig") -> None:
    """Check that `data.path` can be read, as far as its name tells.

    Raises:
        UserError: an asset or a registered data set that is none, a file that is not there or no table.
    """
    if config.path.startswith(PREFIX):
        if registration(config.path) is None:
            known = ", ".join(f"{PREFIX}{name}" for name in sorted(_REGISTERED))
            allowed = f"{known} is allowed" if known else "no data set is registered"
            raise UserError(f"data.path={config.path}: {allowed}")
        return
    if config.path.startswith(assets.PREFIX):
        tables = [
            f"{assets.PREFIX}{name}" for name in assets.ASSETS if _asset_table(name) is not None
        ]
        if config.path not in tables:
            raise UserError(f"data.path={config.path}: {', '.join(tables)} is allowed")
        return
    path = Path(config.path).expanduser()
    looks_like_a_file = path.suffix.lower().removeprefix(".") in endings()
    try:
        if looks_like_a_file and not path.exists():
            raise UserError(f"data.path={config.path}: no such file")
        is_file = path.is_file()
    except OSError as error:
        raise UserError(f"data.path={config.path[:80]}…: {error.strerror or error}") from error
    if is_file and not looks_like_a_file:
        raise UserError(f"data.path={config.path}: must end in one of .{', .'.join(endings())}")


def _read_registered(config: "DataConfig") -> dict[str, pd.DataFrame]:
    where = f"data.path={config.path}"
    try:
        found = _REGISTERED[config.path.removeprefix(PREFIX)][1](config)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's function raises
        raise UserError(f"{where}: cannot be read ({in_one_line(error)})") from error
    if not isinstance(found, Mapping):
        raise UserError(
            f"{where}: gave a {type(found).__name__}; a mapping from splits to pandas.DataFrame is "
            "allowed"
        )
    names = list(found)
    if names != ["all"] and not ("train" in names and set(names) <= set(SPLITS)):
        raise UserError(
            f"{where}: gave {', '.join(map(str, names)) or 'no split'}; all alone, or train with or "
            "without validation and test, is allowed"
        )
    for name, frame in found.items():
        if not isinstance(frame, pd.DataFrame):
            raise UserError(
                f"{where}: gave a {type(frame).__name__} for {name}; a pandas.DataFrame is allowed"
            )
        if frame.empty:
            raise UserError(f"{where}: gave no rows for {name}; at least one is needed")
    return {name: frame.reset_index(drop=True) for name, frame in found.items()}


def _asset_table(path: str) -> str | None:
    # The one table that an asset holds.
    asset = assets.ASSETS.get(path.removeprefix(assets.PREFIX))
    names = asset.members.values() if asset is not None else ()
    return next((name for name in names if name.endswith(".csv")), None)


def _folder_of_tables(config: "DataConfig", path: Path) -> dict[str, pd.DataFrame] | None:
    """Return the CSV and TSV files of a folder by split, as the hub names them, None without any."""
    files = [
        file
        for folder in (path, path / "data")
        for file in sorted(folder.glob("*.?sv"))
        if file.suffix.lower() in (".csv", ".tsv")
    ]
    if not files:
        return None
    frames = {}
    for role in SPLITS:
        name = getattr(config, f"{role}_split")
        own = [
            file for file in files if re.fullmatch(rf"{re.escape(str(name))}([-_.].*)?", file.stem)
        ]
        if name is not None and not own and role == "train" and len(files) == 1:
            own = files
        if name is not None and not own:
            raise UserError(
                f"data.{role}_split={name}: no such file in {config.path}; it has "
                f"{', '.join(file.name for file in files)}"
            )
        if own:
            frames[role] = pd.concat(
                [read_table(file, config.quoting) for file in own]
            ).reset_index(drop=True)
    return frames


def _read_hub(config: "DataConfig", path: Path) -> dict[str, pd.DataFrame]:
    import datasets

    datasets.disable_progress_bars()
    tables = _folder_of_tables(config, path)
    if tables is not None:
        return tables
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded: Any = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(
                config.path, config.config_name, revision=config.revision
            )
    except Exception as error:  # the hub's client raises many kinds, all meaning the same here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"data.path={config.path}: cannot be loaded ({reason}); a local file, a folder in the "
            "hub's format, or a hub name (with network) is allowed"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        loaded = {config.train_split: loaded}
    frames = {}
    for role in SPLITS:
        name = getattr(config, f"{role}_split")
        if name is None:
            continue
        if name not in loaded:
            raise UserError(
                f"data.{role}_split={name}: no such split in {config.path}; "
                f"it has {', '.join(map(str, loaded))}"
            )
        # By Arrow, which keeps whole numbers whole beside a null, and does not decode pictures.
        frame = of_arrow(loaded[name].with_format("arrow")[:])
        feature = loaded[name].features.get(config.label_column)
        if isinstance(feature, datasets.ClassLabel):
            # −1 is the hub's mark for a label that is kept secret: missing, here.
            names = dict(enumerate(feature.names))
            indices = frame[config.label_column].astype(object)
            frame[config.label_column] = [names.get(index) for index in indices]
        frames[role] = frame
    return frames
