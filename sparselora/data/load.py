"""Load examples in three splits, groups apart: sentences or pairs with labels, or prompts to complete."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparselora.data import cells, chat, classes
from sparselora.data.sources import check_path, read_frames, registration
from sparselora.data.splits import Split, assign, to_split
from sparselora.data.templates import fill
from sparselora.errors import UserError

if TYPE_CHECKING:
    from sparselora.config.groups import DataConfig

NO_TEXT, NO_LABEL, NO_COMPLETION = "no text", "no label", "no completion"
OTHER_LABEL, DUPLICATE = "another label", "duplicate"
"""Why a row is left out."""


@dataclass(frozen=True)
class LoadedData:
    """Hold three splits, the names of their labels, and what was left out."""

    splits: dict[str, Split]
    label_names: list[str]
    """Index → label as it stands in the data; none of prompts."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Why rows were left out → how many."""
    notes: tuple[str, ...] = ()
    """What a user should know of the data, a sentence each."""

    @property
    def dropped_rows(self) -> int:
        """Return how many rows were left out."""
        return sum(self.dropped.values())


def load_data(config: "DataConfig", prompts: bool = False) -> LoadedData:
    """Read, check and split the data that `config` describes; what was read last is kept.

    Args:
        config: the settings of `data`.
        prompts: whether rows become prompts and completions, by the config's templates or as chat data,
            in place of sentences and labels.

    Raises:
        UserError: a file or data set that cannot be read, a missing column, cells that are no texts, no
            rows, fewer than two classes, an empty split.
    """
    check_path(config)
    path = Path(config.path).expanduser()
    changed = path.stat().st_mtime_ns if path.exists() else None
    key = (repr(config), prompts, changed, registration(config.path))
    if key not in _LAST_READ:
        _LAST_READ.clear()
        _LAST_READ[key] = _load_data(config, prompts)
    return _LAST_READ[key]


# A command is checked whole, data included, before its first run reads them again.
_LAST_READ: dict[tuple[str, bool, int | None, int | None], LoadedData] = {}


def _load_data(config: "DataConfig", prompts: bool) -> LoadedData:
    frames = read_frames(config)
    chosen: dict[str, pd.DataFrame] = {}
    for name, frame in frames.items():
        source = config.path if len(frames) == 1 else f"{config.path} ({name})"
        rows = (_prompted if prompts else _labelled)(frame, config, source)
        if prompts and config.labels is not None:  # rows of other labels are left out here too
            rows["label"] = _texts(
                frame, config.label_column, "data.label_column", source, names=True
            )
        if config.group_column is not None:
            rows["group"] = _texts(
                frame, config.group_column, "data.group_column", source, names=True
            )
        rows["example_id"] = [f"{name}:{index}" for index in range(len(frame))]
        chosen[name] = rows
    if all("label" in rows for rows in chosen.values()):
        labels = classes.tidy({n: rows["label"].tolist() for n, rows in chosen.items()}, config)
        for name, rows in chosen.items():
            rows["label"] = pd.Series(labels[name], index=rows.index, dtype=object)
    labels_there = {label for rows in chosen.values() for label in rows.get("label", ()) if label}
    dropped: Counter[str] = Counter()
    tidy = {name: _kept(rows, config, dropped) for name, rows in chosen.items()}
    if not sum(map(len, tidy.values())):
        if config.labels is not None and dropped[OTHER_LABEL]:
            classes.asked_for(config, labels_there)
        raise UserError(
            f"data.path={config.path}: no row with a text and a "
            f"{'completion' if prompts else 'label'} among {sum(map(len, chosen.values()))}"
        )
    asked = None if config.labels is None else classes.asked_for(config, labels_there)
    names = [] if prompts else asked or classes.found(tidy.values(), config)
    splits = {name: to_split(rows, names) for name, rows in assign(tidy, config).items()}
    _check(splits, names, config)
    return LoadedData(splits, names, dict(dropped), tuple(classes.notes(names, config)))


def column(frame: pd.DataFrame, name: str, key: str, source: str) -> "pd.Series[Any]":
    """Return one column of a table.

    Raises:
        UserError: it has none of that name, or several; names `key`, which asks for it.
    """
    if name not in frame.columns:
        there = classes.listed(list(map(str, frame.columns))) or "none"
        raise UserError(f"{key}={name}: no such column in {source}; it has {there}")
    found = frame[name]
    if isinstance(found, pd.DataFrame):
        raise UserError(f"{key}={name}: {found.shape[1]} columns of {source} have that name")
    return found


def _texts(
    frame: pd.DataFrame, name: str, key: str, source: str, names: bool = False
) -> "pd.Series[Any]":
    values = column(frame, name, key, source)
    found = cells.texts(values, f"{key}={name}", source, names)
    return pd.Series(found, index=frame.index, dtype=object)


def _labelled(frame: pd.DataFrame, config: "DataConfig", source: str) -> pd.DataFrame:
    names = {"text": config.text_column, "pair": config.pair_column, "label": config.label_column}
    return pd.DataFrame(
        {
            role: _texts(frame, name, f"data.{role}_column", source, names=role == "label")
            for role, name in names.items()
            if name is not None
        }
    )


def _prompted(frame: pd.DataFrame, config: "DataConfig", source: str) -> pd.DataFrame:
    templates = {"text": config.prompt_template, "completion": config.completion_template}
    if config.messages_column is not None or not any(templates.values()):
        found = _chats(frame, config, source)
        if found is not None:
            return found
        templates = {"text": f"{{{chat.PROMPT}}}", "completion": f"{{{chat.COMPLETION}}}"}
    keys = {"text": "data.prompt_template", "completion": "data.completion_template"}
    filled = {}
    for role, template in templates.items():
        if template is None:
            raise UserError(
                f"{keys[role]}=null: task=causal_lm needs one beside the other template"
            )
        filled[role] = fill(
            keys[role],
            template,
            lambda name, key=keys[role]: _texts(frame, name, key, source).tolist(),  # type: ignore[misc]
            len(frame),
        )
    return pd.DataFrame(filled, index=frame.index, dtype=object)


def _chats(frame: pd.DataFrame, config: "DataConfig", source: str) -> pd.DataFrame | None:
    """Return chat data, where the columns are there; None where prompts and completions are texts."""
    name = config.messages_column
    if name is None and chat.MESSAGES in frame.columns:
        name = chat.MESSAGES
    if name is not None:
        return chat.of_messages(column(frame, name, "data.messages_column", source), name, source)
    if not {chat.PROMPT, chat.COMPLETION} <= set(frame.columns):
        there = classes.listed(list(map(str, frame.columns)))
        raise UserError(
            "data.prompt_template=null: task=causal_lm needs data.prompt_template and "
            f"data.completion_template, with columns of the data in braces ({source} has {there}), or "
            "the columns prompt and completion, or messages"
        )
    prompts, completions = frame[chat.PROMPT], frame[chat.COMPLETION]
    if chat.holds_messages(prompts) or chat.holds_messages(completions):
        return chat.of_prompts(prompts, completions, source)
    return None


def _kept(rows: pd.DataFrame, config: "DataConfig", dropped: Counter[str]) -> pd.DataFrame:
    """Return the rows that have what they need; what is left out is counted, by its first reason."""

    def leave_out(reason: str, those: "pd.Series[bool]") -> None:
        nonlocal rows
        if those.any():
            dropped[reason] += int(those.sum())
            rows = rows[~those]

    reasons = {"text": NO_TEXT, "label": NO_LABEL, "completion": NO_COMPLETION}
    for role, reason in reasons.items():
        if role in rows:
            empty = [text is None or not text.strip() for text in rows[role]]
            leave_out(reason, pd.Series(empty, index=rows.index, dtype=bool))
    if "pair" in rows:
        rows = rows.assign(pair=rows["pair"].fillna(""))
    if config.labels is not None and "label" in rows:
        asked = {classes.key_of(label) for label in config.labels}
        leave_out(OTHER_LABEL, ~rows["label"].map(classes.key_of).isin(asked))
    if config.drop_duplicates:
        same = ["text", *(["pair"] if "pair" in rows else [])]
        leave_out(DUPLICATE, rows.duplicated(same))
    # Without a group the text itself is one: the same sentence never stands on two sides.
    group = rows["text"]
    if "group" in rows:
        there = [name is not None and bool(name.strip()) for name in rows["group"]]
        group = rows["group"].where(pd.Series(there, index=rows.index, dtype=bool), group)
    return rows.assign(group=group)


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
