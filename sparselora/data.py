"""Labelled sentences, or pairs of them, in three splits; from the embedded set, a hub, or a table.

A data set is a function from its settings to one pandas frame a split; what follows (choosing columns,
mapping labels, splitting by group) is the same for all.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselora import assets
from sparselora.errors import UserError

if TYPE_CHECKING:
    from sparselora.schema import DataConfig

SPLITS = ("train", "validation", "test")
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Split:
    """Examples of one split; all lists have the same length."""

    example_ids: list[str]
    texts: list[str]
    pairs: list[str] | None
    labels: list[int]
    groups: list[str]
    """What stays together when splits are made: the film, where the data name one."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledData:
    """Three splits and the map of labels."""

    splits: dict[str, Split]
    label_names: list[str]
    """Index → label as it stands in the data."""
    dropped_rows: int
    """Left out: no text, no label, a label not asked for, or a duplicate where those go."""


def load_data(config: "DataConfig") -> LabelledData:
    """Read, check and split the data that `config` describes.

    Raises:
        UserError: a file or data set that cannot be read, a missing column, no rows, fewer than two
            classes, an empty split.
    """
    frames = _read(config)
    wanted = {
        "text": config.text_column,
        "pair": config.pair_column,
        "label": config.label_column,
        "group": config.group_column,
    }
    tidy: dict[str, pd.DataFrame] = {}
    rows_read = 0
    for name, frame in frames.items():
        rows_read += len(frame)
        columns = {role: column for role, column in wanted.items() if column is not None}
        for role, column in columns.items():
            if column not in frame.columns:
                raise UserError(
                    f"data.{role}_column={column}: no such column in {config.path}"
                    f"{'' if len(frames) == 1 else f' ({name})'}; "
                    f"it has {', '.join(map(str, frame.columns)) or 'none'}"
                )
        chosen = pd.DataFrame({role: frame[column] for role, column in columns.items()})
        chosen["example_id"] = [f"{name}:{index}" for index in range(len(frame))]
        tidy[name] = _clean(chosen, config)
    rows_kept = sum(map(len, tidy.values()))
    if rows_kept == 0:
        raise UserError(
            f"data.path={config.path}: no row with a text and a label among {rows_read}"
        )
    label_names = _label_names(tidy.values(), config)
    splits = {name: _to_split(frame, label_names) for name, frame in _assign(tidy, config).items()}
    _check(splits, label_names, config)
    return LabelledData(splits, label_names, dropped_rows=rows_read - rows_kept)


def _read(config: "DataConfig") -> dict[str, pd.DataFrame]:
    if config.path.startswith(assets.PREFIX):
        folder = Path(assets.resolve(config.path))
        return {"all": pd.read_csv(folder / f"{config.path.removeprefix(assets.PREFIX)}.csv")}
    check_path(config)
    path = Path(config.path).expanduser()
    if path.is_file():
        return {"all": read_table(path)}
    return _read_hub(config, path)


def check_path(config: "DataConfig") -> None:
    """Raise a `UserError` where `data.path` reads like a file that is not there or not a table."""
    path = Path(config.path).expanduser()
    looks_like_a_file = path.suffix.lower().removeprefix(".") in _READERS
    if looks_like_a_file and not path.exists():
        raise UserError(f"data.path={config.path}: no such file")
    if path.is_file() and not looks_like_a_file:
        raise UserError(f"data.path={config.path}: one of .{', .'.join(_READERS)} is allowed")


_READERS: dict[str, Any] = {
    # Labels such as NA or null are words here; only an empty cell is missing.
    "csv": lambda path: pd.read_csv(path, keep_default_na=False, na_values=[""]),
    "tsv": lambda path: pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""]),
    "jsonl": lambda path: pd.read_json(path, lines=True),
    "parquet": pd.read_parquet,
}


def read_table(path: Path) -> pd.DataFrame:
    """A CSV, TSV, JSONL or Parquet file, by its ending."""
    reader = _READERS[path.suffix.lower().removeprefix(".")]
    try:
        frame: pd.DataFrame = reader(path)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"data.path={path}: cannot be read ({reason})") from error
    if frame.empty:
        raise UserError(f"data.path={path}: the file has no rows; at least one is needed")
    return frame


def _read_hub(config: "DataConfig", path: Path) -> dict[str, pd.DataFrame]:
    import datasets

    datasets.disable_progress_bars()
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
        frame = loaded[name].to_pandas()
        feature = loaded[name].features.get(config.label_column)
        if isinstance(feature, datasets.ClassLabel):
            # −1 is the hub's mark for a label that is kept secret: missing, here.
            names = dict(enumerate(feature.names))
            frame[config.label_column] = frame[config.label_column].map(names)
        frames[role] = frame
    return frames


def _clean(frame: pd.DataFrame, config: "DataConfig") -> pd.DataFrame:
    frame = frame.dropna(subset=["text", "label", *(["pair"] if "pair" in frame else [])])
    frame = frame.assign(text=frame["text"].astype(str), label=frame["label"].map(_label_text))
    if "pair" in frame:
        frame = frame.assign(pair=frame["pair"].astype(str))
    frame = frame[frame["text"].str.strip() != ""]
    if config.labels is not None:
        frame = frame[frame["label"].isin([_label_text(label) for label in config.labels])]
    if config.drop_duplicates:
        frame = frame.drop_duplicates(["text", *(["pair"] if "pair" in frame else [])])
    # Without a group the text itself is one: the same sentence never stands on two sides.
    group = frame["group"] if "group" in frame else frame["text"]
    return frame.assign(group=group.astype(str))


def _label_text(label: Any) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _label_names(frames: Iterable[pd.DataFrame], config: "DataConfig") -> list[str]:
    found = sorted({label for frame in frames for label in frame["label"]}, key=_natural)
    if config.labels is not None:
        names = [_label_text(label) for label in config.labels]
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(f"data.labels: {', '.join(missing)} is in no row of {config.path}")
        return names
    if len(found) < 2:
        raise UserError(
            f"data.label_column={config.label_column}: {config.path} has one class "
            f"({found[0]!r}); two or more are needed"
        )
    if len(found) > MAX_CLASSES:
        raise UserError(
            f"data.label_column={config.label_column}: {len(found)} distinct labels; at most "
            f"{MAX_CLASSES} classes are allowed"
        )
    return found


def _natural(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def hash_fraction(group: str) -> float:
    """A stable number in [0, 1) for a group: the same on every machine and in every release."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def _assign(frames: dict[str, pd.DataFrame], config: "DataConfig") -> dict[str, pd.DataFrame]:
    """Splits that the source does not have are cut off by a hash of the group."""
    if "all" in frames:
        frames = {"train": frames["all"]}
    assigned = dict(frames)
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    train = frames["train"]
    position = train["group"].map(hash_fraction)
    taken = 0.0
    for name, fraction in fractions.items():
        if name not in frames:
            inside = (position >= taken) & (position < taken + fraction)
            assigned[name] = train[inside]
            taken += fraction
    assigned["train"] = train[position >= taken]
    return assigned


def _to_split(frame: pd.DataFrame, label_names: list[str]) -> Split:
    indices = {name: index for index, name in enumerate(label_names)}
    return Split(
        example_ids=frame["example_id"].tolist(),
        texts=frame["text"].tolist(),
        pairs=frame["pair"].tolist() if "pair" in frame else None,
        labels=[indices[label] for label in frame["label"]],
        groups=frame["group"].tolist(),
    )


def _check(splits: dict[str, Split], label_names: list[str], config: "DataConfig") -> None:
    for name in ("train", "validation"):
        if not len(splits[name]):
            raise UserError(
                f"data.path={config.path}: the {name} split is empty "
                f"({len(splits['train'])} rows for training); more rows, or groups, are needed"
            )
    if len(set(splits["train"].labels)) < 2:
        only = label_names[splits["train"].labels[0]]
        raise UserError(
            f"data.label_column={config.label_column}: the training split has one class "
            f"({only!r}); two or more are needed"
        )
