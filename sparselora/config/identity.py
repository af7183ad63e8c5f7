"""Tell whether two runs are the same: one table of what each setting decides, and the keys that follow.

Two runs can be the same in more than one sense: come to the same figures, be compared with the same plain
LoRA run, be repeats of one setting. The table says for each setting in which senses it counts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Flag, auto
from types import MappingProxyType
from typing import Any

from sparselora.config.ranges import walk
from sparselora.config.schema import RunConfig


class Decides(Flag):
    """Name the senses in which two runs with different values of a setting are not the same."""

    NOTHING = 0
    OUTCOME = auto()
    """What a run comes to: its `config_hash`, from which state it goes on, and which study it is of."""
    PARTNER = auto()
    """Which plain LoRA run it is compared with."""
    SETTING = auto()
    """Of which setting it is a repeat with another seed."""
    REFERENCE = auto()
    """Whose time of a stock LoRA step holds for it too."""
    SPARSITY = auto()
    """What is sparse, and so what a named experiment fixes."""
    LATER = auto()
    """Came after runs were recorded: at its default it is no part of a hash, as it was none then."""


_WORK = Decides.OUTCOME | Decides.PARTNER | Decides.SETTING
_STEP = _WORK | Decides.REFERENCE
_SPARSITY = Decides.OUTCOME | Decides.SETTING | Decides.SPARSITY
_ROWS: tuple[tuple[Decides, str, tuple[str, ...]], ...] = (
    (_STEP, "task", ("name", "chat_template")),
    (_STEP, "model", ("name", "name_or_path", "revision", "random_init", "init_config")),
    (_STEP, "model", ("trust_remote_code", "gguf_file", "quantization")),
    (_STEP, "data", ("name", "path", "config_name", "revision")),
    (_STEP, "data", ("text_column", "pair_column", "label_column", "group_column")),
    (_STEP, "data", ("labels", "drop_duplicates")),
    (_STEP, "data", ("train_split", "validation_split", "test_split")),
    (_STEP, "data", ("validation_fraction", "test_fraction", "max_length")),
    (_STEP, "data", ("prompt_template", "completion_template")),
    (_STEP | Decides.LATER, "data", ("quoting", "missing_label", "messages_column")),
    (_STEP, "lora", ("r", "alpha", "dropout", "projections")),
    (_STEP, "train", ("batch_size", "gradient_accumulation_steps", "precision")),
    (_WORK, "train", ("max_steps", "epochs", "learning_rate", "weight_decay")),
    (_WORK, "train", ("lr_warmup_ratio", "max_grad_norm")),
    # Runs of two machines are compared, but none is the other to the digit.
    (Decides.OUTCOME, "train", ("device", "threads", "keep_checkpoints")),
    (Decides.NOTHING, "train", ("checkpoint_every", "resume")),
    (_SPARSITY, "schedule", ("name", "rule")),
    (_SPARSITY, "estimator", ("name", "tokens", "weighted", "every")),
    (_SPARSITY, "compensation", ("name", "rank")),
    (_SPARSITY, "calibration", ("batches",)),
    (_SPARSITY, "", ("svd_rank", "ffn_sparsity", "qk_sparsity", "vo_sparsity")),
    (_SPARSITY, "", ("layer_sparsity", "layer_qk_sparsity", "layer_vo_sparsity")),
    (_SPARSITY, "", ("attention_scope", "tokens", "sink_tokens")),
    (_SPARSITY, "", ("sparse_warmup_ratio", "sparse_rampup_ratio", "sparse_cooldown_ratio")),
    (Decides.OUTCOME, "measure", ("eval_every", "eval_batch_size", "eval_first", "test")),
    # Of another sample of the validation split an accuracy is another figure.
    (Decides.OUTCOME | Decides.PARTNER, "measure", ("eval_rows",)),
    (Decides.OUTCOME, "measure", ("timing", "min_rounds", "max_rounds", "seconds")),
    (Decides.OUTCOME, "measure", ("interval_width", "batches")),
    (Decides.NOTHING, "bench", ("batch_size", "seq_len")),
    (Decides.OUTCOME | Decides.PARTNER, "", ("seed",)),
    (Decides.OUTCOME, "", ("seeds",)),
    (Decides.NOTHING, "", ("tags",)),
)


def table_of(run: RunConfig) -> dict[str, Decides]:
    """Return what each field of the settings decides, by dotted key.

    A field that no row names came later: it counts wherever a setting of its group does, so that two
    runs are told apart rather than taken for one, and at its default it is no part of a hash.

    Args:
        run: settings, of which the names of the fields count alone.
    """
    table = {
        f"{group}.{name}" if group else name: decides
        for decides, group, names in _ROWS
        for name in names
    }
    groups = _groups(table)
    for key, value, _ in walk(run):
        if key not in table and not is_dataclass(value):
            decides = groups.get(key.partition(".")[0], _GONE) if "." in key else _GONE
            table[key] = decides | Decides.LATER if decides else decides
    return table


def _groups(table: Mapping[str, Decides]) -> dict[str, Decides]:
    # A key of an older record that no field has now counts as the others of its group do.
    groups: dict[str, Decides] = {}
    for key, decides in table.items():
        group, _, name = key.partition(".")
        if name:
            groups[group] = groups.get(group, Decides.NOTHING) | decides
    return groups


_GONE = Decides.OUTCOME | Decides.SETTING
"""What a key in no group decides where no row names it: an older record's, or a later field's."""
TABLE: Mapping[str, Decides] = MappingProxyType(table_of(RunConfig()))
"""Dotted key of each field of the schema → what it decides."""
_GROUPS = _groups(TABLE)
_LATER_THAN_REFERENCES = ("model.quantization",)


def content_hash(run: RunConfig) -> str:
    """Return the SHA-256 of everything that decides the run's outcome: `config_hash` in its record."""
    content = _without_later_defaults(_part(run.to_dict(), Decides.OUTCOME))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def outcome_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that decide a run's outcome by dotted key, from a config of plain values."""
    return flattened(_part(config, Decides.OUTCOME))


def pairing_key(config: Mapping[str, Any]) -> str:
    """Return what a run shares with the plain LoRA run that it is compared with: all but its sparsity.

    Args:
        config: of a record, with the defaults of what it lacks.
    """
    parts = _part(config, Decides.PARTNER)
    groups = ("task", "model", "data", "lora", "train", "seed")
    content = {key: parts.get(key) for key in groups}
    measure = parts.get("measure")
    content["eval_rows"] = measure.get("eval_rows") if isinstance(measure, Mapping) else None
    return json.dumps(content, sort_keys=True)


def setting_key(config: Mapping[str, Any]) -> str:
    """Return what a run shares with its repeats: all settings but the seed and how it is measured.

    Args:
        config: of a record, with the defaults of what it lacks.
    """
    return json.dumps(_part(config, Decides.SETTING), sort_keys=True)


def reference_key(run: RunConfig, device: str, threads: int) -> str:
    """Return what two runs must share for the time of a stock LoRA step to hold for both.

    Args:
        run: its settings.
        device: what the hardware calls itself.
        threads: of the CPU.
    """
    parts = _part(run.to_dict(), Decides.REFERENCE)
    parts = _without_later_defaults(parts, _LATER_THAN_REFERENCES)
    train = parts.pop("train")
    return json.dumps({"device": device, "threads": threads, **parts, **train}, sort_keys=True)


def shapes_sparsity(key: str) -> bool:
    """Return whether a key, or a group's name, is part of what a named experiment fixes."""
    return any(
        key == each or key.startswith(f"{each}.") or each.startswith(f"{key}.")
        for each, decides in TABLE.items()
        if Decides.SPARSITY in decides
    )


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _part(config: Mapping[str, Any], sense: Decides) -> dict[str, Any]:
    """Return the settings that count in one sense, nested as they are, without groups that have none."""
    part: dict[str, Any] = {}
    for key, value in config.items():
        group = _GROUPS.get(key)
        if group is None:
            if sense in TABLE.get(key, _GONE):
                part[key] = value
        elif sense in group and isinstance(value, Mapping):
            part[key] = {
                name: item
                for name, item in value.items()
                if sense in TABLE.get(f"{key}.{name}", group)
            }
        elif sense in group:
            part[key] = value
    return part


def _without_later_defaults(part: dict[str, Any], more: tuple[str, ...] = ()) -> dict[str, Any]:
    defaults = RunConfig().to_dict()
    for key, decides in TABLE.items():
        if Decides.LATER in decides or key in more:
            group, _, name = key.rpartition(".")
            section = part.get(group, {}) if group else part
            default = defaults[group] if group else defaults
            if name in section and section[name] == default[name]:
                del section[name]
    return part
