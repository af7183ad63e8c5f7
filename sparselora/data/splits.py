"""Put the examples of a data set in three splits, groups apart."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from sparselora.config.groups import DataConfig

SPLITS = ("train", "validation", "test")

Message = Mapping[str, str]
"""Of a chat: its role and content."""


@dataclass(frozen=True)
class Split:
    """Hold the examples of one split; all lists have the same length."""

    example_ids: list[str]
    texts: list[str]
    """Sentences, or prompts."""
    pairs: list[str] | None
    labels: list[int]
    """None of prompts."""
    groups: list[str]
    """What stays together when splits are made, such as the film that a line is about."""
    completions: list[str] | None = None
    """What follows each prompt."""
    chats: list[list[Message]] | None = None
    """The messages that each prompt stands for, where the data hold messages."""

    def __len__(self) -> int:
        return len(self.example_ids)

    def sample(self, rows: int) -> "Split":
        """Return a fixed sample, the same on every machine and for every seed; all, if they are fewer."""
        order = sorted(range(len(self)), key=lambda row: hash_fraction(self.example_ids[row]))
        taken = sorted(order[:rows])
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Split(
            **{
                name: [values[row] for row in taken] if values else values
                for name, values in columns.items()
            }
        )


def hash_fraction(group: str) -> float:
    """Return a stable number in [0, 1) for a group: the same on every machine and in every release."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def assign(frames: dict[str, pd.DataFrame], config: "DataConfig") -> dict[str, pd.DataFrame]:
    """Return the splits, those that the source does not have cut off by a hash of the group."""
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


def to_split(frame: pd.DataFrame, label_names: list[str]) -> Split:
    """Return the examples of a tidy table: `example_id`, `text`, `group`, and what else there is."""
    indices = {name: index for index, name in enumerate(label_names)}

    def of(role: str) -> list[str] | None:
        return frame[role].tolist() if role in frame else None

    return Split(
        example_ids=frame["example_id"].tolist(),
        texts=frame["text"].tolist(),
        pairs=of("pair"),
        labels=[indices[label] for label in frame["label"]] if label_names else [],
        groups=frame["group"].tolist(),
        completions=of("completion"),
        chats=frame["chat"].tolist() if "chat" in frame else None,
    )
