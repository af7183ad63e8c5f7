"""Where the data come from: the embedded set, a table, or a hub; one pandas frame a split."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselora.data import assets
from sparselora.data.splits import SPLITS
from sparselora.data.tables import endings, of_arrow, read_table
from sparselora.errors import UserError

if TYPE_CHECKING:
    from sparselora.config.schema import DataConfig


def read_frames(config: "DataConfig") -> dict[str, pd.DataFrame]:
    """The rows that `data.path` names: by split, or under `all` where they are not split.

    Raises:
        UserError: a file or data set that cannot be read.
    """
    if config.path.startswith(assets.PREFIX):
        table = _asset_table(config.path)
        assert table is not None
        return {"all": read_table(Path(assets.resolve(config.path)) / table, config.quoting)}
    path = Path(config.path).expanduser()
    if path.is_file():
        return {"all": read_table(path, config.quoting)}
    return _read_hub(config, path)


def check_path(config: "DataConfig") -> None:
    """Raise a `UserError` where `data.path` reads like a file that is not there or not a table."""
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
        raise UserError(f"data.path={config.path}: one of .{', .'.join(endings())} is allowed")


def _asset_table(path: str) -> str | None:
    # The one table that an asset holds.
    asset = assets.ASSETS.get(path.removeprefix(assets.PREFIX))
    names = asset.members.values() if asset is not None else ()
    return next((name for name in names if name.endswith(".csv")), None)


def _folder_of_tables(config: "DataConfig", path: Path) -> dict[str, pd.DataFrame] | None:
    """The CSV and TSV files of a folder by split, as the hub names them; None where it holds none."""
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
