"""Find the key that a user means by one that does not exist."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from sparselora.config.schema import RunConfig
from sparselora.paths import CONF
from sparselora.plugins import CONFIG_FOLDERS

MOST = 3
"""Suggestions of one message."""

OTHER_NAMES = {
    "attention_sparsity": ("qk_sparsity", "vo_sparsity"),
    "checkpoint": ("model.name_or_path", "train.resume"),
    "csv": ("data.path",),
    "data.file": ("data.path",),
    "dataset": ("data",),
    "eval_steps": ("measure.eval_every",),
    "file": ("data.path", "model.gguf_file"),
    "fp16": ("train.precision",),
    "bf16": ("train.precision",),
    "clip": ("train.max_grad_norm",),
    "dtype": ("train.precision",),
    "grad_clip": ("train.max_grad_norm",),
    "gpu": ("train.device",),
    "length": ("data.max_length", "bench.seq_len"),
    "load_in_4bit": ("model.quantization",),
    "lr": ("train.learning_rate",),
    "max_len": ("data.max_length",),
    "max_seq_length": ("data.max_length",),
    "model.path": ("model.name_or_path",),
    "output_dir": ("hydra.run.dir",),
    "out": ("hydra.run.dir",),
    "output": ("hydra.run.dir",),
    "qlora": ("model.quantization",),
    "rank": ("svd_rank", "lora.r"),
    "save_steps": ("train.checkpoint_every",),
    "seq_len": ("data.max_length", "bench.seq_len"),
    "seq_length": ("data.max_length", "bench.seq_len"),
    "sequence_length": ("data.max_length", "bench.seq_len"),
    "sparsity": ("ffn_sparsity",),
    "sparsity_ratio": ("ffn_sparsity",),
    "sweep": ("-m +sweep",),
    "target_modules": ("lora.projections",),
    "warmup_steps": ("train.lr_warmup_ratio", "sparse_warmup_ratio"),
    "wd": ("train.weight_decay",),
}
"""What other tools and papers call a setting; a name in a group goes before the name alone."""


def known_keys() -> list[str]:
    """Return every dotted key of a run, and the groups that an option can be chosen of."""
    return [*_keys(RunConfig()), *_groups(), "experiment"]


def kind_of(key: str) -> str:
    """Return what a key's value is declared as in the schema, empty for a key that it does not have."""
    kind: Any = RunConfig()
    *groups, name = key.split(".")
    for group in groups:
        kind = getattr(kind, group, None)
    if not is_dataclass(kind):
        return ""
    return next((str(field.type) for field in fields(kind) if field.name == name), "")


def unknown_key(key: str) -> str:
    """Return the message for a key that the schema does not have, with those that may be meant."""
    plain = key.replace("/", ".")
    parent = plain.rpartition(".")[0]
    kind: Any = RunConfig()
    for part in filter(None, parent.split(".")):
        kind = getattr(kind, part, None)
    if not is_dataclass(kind):
        kind, parent = RunConfig(), ""
    allowed = [field.name for field in fields(kind)]
    if not parent:
        allowed.append("experiment")
    meant = suggestions(plain)
    hint = ""
    if meant:
        *first, last = meant
        hint = f" did you mean {', '.join(first)} or {last}?" if first else f" did you mean {last}?"
    where = f" in {parent}" if parent else ""
    return f"{key}: unknown key;{hint} allowed{where}: {', '.join(allowed)}"


def suggestions(key: str) -> list[str]:
    """Return the keys that `key` may mean, the likeliest first, none where nothing is near.

    What comes first goes before all that follows: another name for a setting; the same name in
    another group, or the same words; an option of a group; a slip of the pen; all of the words among
    a key's; a key's among them; anything near.
    """
    key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_")
    parent, _, name = key.rpartition(".")
    for other in (key, name):
        if other in OTHER_NAMES:
            return _shown(OTHER_NAMES[other], parent)
    known = known_keys()
    given, alone = _words(key), _words(name)
    same = [each for each in known if _last(each) == name or _words(each) == given]
    found = same or _options(name) or _misspelled(key, known, 0.85)
    if found:
        return _shown(found, parent)
    rules: tuple[Callable[[str], bool], ...] = (
        lambda each: given <= _words(each),
        lambda each: alone <= _words(each),
        lambda each: _words(each) <= given and "." in each,
        lambda each: _words(_last(each)) <= alone,
    )
    for rule in rules:
        found = [each for each in known if rule(each)]
        if found:
            most = max(len(_words(each) & given) for each in found)
            return _shown([each for each in found if len(_words(each) & given) == most], parent)
    return _shown(_misspelled(key, known, 0.6), parent)


def _options(name: str) -> list[str]:
    # `optimized=true` for `experiment=optimized`.
    files = [path for folder in (CONF, *CONFIG_FOLDERS) for path in sorted(folder.glob("*/*.yaml"))]
    return list(dict.fromkeys(f"{path.parent.name}={name}" for path in files if path.stem == name))


def _misspelled(key: str, known: Sequence[str], cutoff: float) -> list[str]:
    by_name: dict[str, list[str]] = {name: list(meant) for name, meant in OTHER_NAMES.items()}
    for each in known:
        for spelled in {each, _last(each)}:
            by_name.setdefault(spelled, []).append(each)
    close = [
        spelled
        for asked in (key, _last(key))
        for spelled in difflib.get_close_matches(asked, by_name, n=1, cutoff=cutoff)
    ]
    return [each for spelled in close for each in by_name[spelled]]


def _shown(found: Sequence[str], parent: str) -> list[str]:
    # Those of the group that the user wrote go before all others.
    unique = list(dict.fromkeys(found))
    inside = [each for each in unique if parent and each.startswith(f"{parent}.")]
    return (inside or unique)[:MOST]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _words(key: str) -> frozenset[str]:
    return frozenset(re.split(r"[._]", key)) - {""}


def _groups() -> list[str]:
    run = RunConfig()
    names = [field.name for field in fields(run) if is_dataclass(getattr(run, field.name))]
    return [name for name in names if name not in ("bench", "calibration")]  # no options to choose


def _keys(schema: Any, prefix: str = "") -> list[str]:
    keys = []
    for field in fields(schema):
        value = getattr(schema, field.name)
        name = f"{prefix}{field.name}"
        keys += _keys(value, f"{name}.") if is_dataclass(value) else [name]
    return keys
