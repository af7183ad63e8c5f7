"""Examples in three splits, films apart: sentences or pairs with labels, or prompts with completions."""

import hashlib
import string
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselora.errors import UserError
from sparselora.sources import check_path, read_frames

if TYPE_CHECKING:
    from sparselora.schema import DataConfig

MAX_CLASSES = 1000
MAX_NAMES = 20
"""How many names a message lists."""


@dataclass(frozen=True)
class Split:
    """Examples of one split; all lists have the same length."""

    example_ids: list[str]
    texts: list[str]
    """Sentences, or prompts."""
    pairs: list[str] | None
    labels: list[int]
    """None of prompts."""
    groups: list[str]
    """What stays together when splits are made: the film, where the data name one."""
    completions: list[str] | None = None
    """What follows each prompt."""

    def __len__(self) -> int:
        return len(self.example_ids)

    def sample(self, rows: int) -> "Split":
        """A fixed sample, the same on every machine and for every seed; all, where there are fewer."""
        order = sorted(range(len(self)), key=lambda row: hash_fraction(self.example_ids[row]))
        taken = sorted(order[:rows])
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Split(
            **{
                name: [values[row] for row in taken] if values else values
                for name, values in columns.items()
            }
        )


@dataclass(frozen=True)
class LoadedData:
    """Three splits and the map of labels."""

    splits: dict[str, Split]
    label_names: list[str]
    """Index → label as it stands in the data; none of prompts."""
    dropped_rows: int
    """Left out: no text, no label, a label not asked for, or a duplicate where those go."""


def load_data(config: "DataConfig", prompts: bool = False) -> LoadedData:
    """Read, check and split the data that `config` describes; what was read last is kept.

    Args:
        prompts: whether rows become prompts and completions, by the config's templates, in place of
            sentences and labels.

    Raises:
        UserError: a file or data set that cannot be read, a missing column, no rows, fewer than two
            classes, an empty split.
    """
    check_path(config)
    path = Path(config.path).expanduser()
    changed = path.stat().st_mtime_ns if path.exists() else None
    key = (repr(config), prompts, changed)
    if key not in _LAST_READ:
        _LAST_READ.clear()
        _LAST_READ[key] = _load_data(config, prompts)
    return _LAST_READ[key]


# A command is checked whole, data included, before its first run reads them again.
_LAST_READ: dict[tuple[str, bool, int | None], LoadedData] = {}


def _load_data(config: "DataConfig", prompts: bool) -> LoadedData:
    frames = read_frames(config)
    tidy: dict[str, pd.DataFrame] = {}
    rows_read = 0
    for name, frame in frames.items():
        rows_read += len(frame)
        source = config.path if len(frames) == 1 else f"{config.path} ({name})"
        chosen = (_prompted if prompts else _labelled)(frame, config, source)
        if prompts and config.labels is not None:  # rows of other labels are left out here too
            chosen["label"] = column(frame, config.label_column, "data.label_column", source)
        if config.group_column is not None:
            chosen["group"] = column(frame, config.group_column, "data.group_column", source)
        chosen["example_id"] = [f"{name}:{index}" for index in range(len(frame))]
        tidy[name] = _clean(chosen, config)
    rows_kept = sum(map(len, tidy.values()))
    if rows_kept == 0:
        raise UserError(
            f"data.path={config.path}: no row with a text and a "
            f"{'completion' if prompts else 'label'} among {rows_read}"
        )
    label_names = [] if prompts else _label_names(tidy.values(), config)
    splits = {name: _to_split(frame, label_names) for name, frame in _assign(tidy, config).items()}
    _check(splits, label_names, config)
    return LoadedData(splits, label_names, dropped_rows=rows_read - rows_kept)


def column(frame: pd.DataFrame, name: str, key: str, source: str) -> pd.Series:
    """One column of a table.

    Raises:
        UserError: it has none of that name; names `key`, which asks for it.
    """
    if name not in frame.columns:
        there = ", ".join(map(str, frame.columns[:MAX_NAMES])) or "none"
        more = len(frame.columns) - MAX_NAMES
        raise UserError(
            f"{key}={name}: no such column in {source}; "
            f"it has {there}{f' and {more} more' if more > 0 else ''}"
        )
    return frame[name]


def _labelled(frame: pd.DataFrame, config: "DataConfig", source: str) -> pd.DataFrame:
    names = {"text": config.text_column, "pair": config.pair_column, "label": config.label_column}
    return pd.DataFrame(
        {
            role: column(frame, name, f"data.{role}_column", source)
            for role, name in names.items()
            if name is not None
        }
    )


def _prompted(frame: pd.DataFrame, config: "DataConfig", source: str) -> pd.DataFrame:
    templates = {"text": config.prompt_template, "completion": config.completion_template}
    keys = {"text": "data.prompt_template", "completion": "data.completion_template"}
    filled = {}
    for role, template in templates.items():
        assert template is not None
        columns = {
            name: column(frame, name, keys[role], source)
            for name in template_fields(keys[role], template)
        }
        rows = zip(*columns.values(), strict=True) if columns else [()] * len(frame)
        filled[role] = [
            None
            if any(map(pd.isna, row))
            else template.format(**dict(zip(columns, row, strict=True)))
            for row in rows
        ]
    return pd.DataFrame(filled, index=frame.index)


def template_fields(key: str, template: str) -> list[str]:
    """The columns that a template names, each once.

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
    """What follows the last column of a template; nothing of one without columns."""
    end: list[str] | None = None
    for literal, name, _, _ in string.Formatter().parse(template):
        if name is not None:
            end = []
        elif end is not None:
            end.append(literal)
    return "".join(end or [])


def _clean(frame: pd.DataFrame, config: "DataConfig") -> pd.DataFrame:
    needed = [role for role in ("text", "pair", "label", "completion") if role in frame]
    frame = frame.dropna(subset=needed)
    texts = {
        role: frame[role].map(_label_text) if role == "label" else frame[role].astype(str)
        for role in needed
    }
    frame = frame.assign(**texts)
    for role in set(needed) - {"pair"}:
        frame = frame[frame[role].str.strip() != ""]
    if config.labels is not None and "label" in frame:
        frame = frame[frame["label"].isin([_label_text(label) for label in config.labels])]
    if config.drop_duplicates:
        frame = frame.drop_duplicates(["text", *(["pair"] if "pair" in frame else [])])
    # Without a group the text itself is one: the same sentence never stands on two sides.
    group = frame["group"].fillna(frame["text"]) if "group" in frame else frame["text"]
    return frame.assign(group=group.map(str))


def _label_text(label: Any) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _label_names(frames: Iterable[pd.DataFrame], config: "DataConfig") -> list[str]:
    found = sorted({label for frame in frames for label in frame["label"]}, key=_natural)
    if config.labels is not None:
        names = [_label_text(label) for label in config.labels]
        if len(set(names)) < max(len(names), 2):
            raise UserError(
                f"data.labels=[{', '.join(names)}]: two or more labels, each once, are allowed"
            )
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
        labels=[indices[label] for label in frame["label"]] if label_names else [],
        groups=frame["group"].tolist(),
        completions=frame["completion"].tolist() if "completion" in frame else None,
    )


def _check(splits: dict[str, Split], label_names: list[str], config: "DataConfig") -> None:
    for name in ("train", "validation"):
        if not len(splits[name]):
            raise UserError(
                f"data.path={config.path}: the {name} split is empty "
                f"({len(splits['train'])} rows for training); more rows, or groups, are needed"
            )
    if label_names and len(set(splits["train"].labels)) < 2:
        only = label_names[splits["train"].labels[0]]
        raise UserError(
            f"data.label_column={config.label_column}: the training split has one class "
            f"({only!r}); two or more are needed"
        )
