"""Hashes and keys of recorded runs stay as they are, and every setting is in the table."""

import hashlib
import json
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from sparselora.config import identity
from sparselora.config.groups import BenchConfig, TrainConfig
from sparselora.config.identity import (
    TABLE,
    Decides,
    content_hash,
    outcome_settings,
    pairing_key,
    reference_key,
    setting_key,
    shapes_sparsity,
)
from sparselora.config.older_records import filled
from sparselora.config.schema import RunConfig, register_schema
from sparselora.paths import CONF
from sparselora.runs.checks import parse_job

EXAMPLES = Path(__file__).parents[2] / "docs" / "example" / "runs"
HASHES = {
    (): "5d5d9300b29f696d6273f585d91515a1ec87ab957f84c3b18fd56e0a8a68e0f5",
    ("experiment=optimized",): "035c3589059657f73fd96c5bef26f6516adaff9251203e32559224117cb41ded",
    (
        "model=smollm2",
        "task=causal_lm",
        "experiment=paper",
    ): "931cb815efee3d6cdc6e080b67e9adb56d88cab1cf8615f7f27a5dbf03487998",
}
"""Overrides → the hash that records of 0.1.0 hold."""


def _run(*overrides: str) -> RunConfig:
    register_schema()
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", list(overrides), return_hydra_config=True)
    return parse_job(config, overrides)


def _fields(schema: Any, prefix: str = "") -> list[str]:
    found = []
    for field in fields(schema):
        value, key = getattr(schema, field.name), f"{prefix}{field.name}"
        found += _fields(value, f"{key}.") if is_dataclass(value) else [key]
    return found


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    assert sorted(TABLE) == sorted(_fields(RunConfig()))


def test_a_field_that_no_row_names_counts_and_changes_no_hash_at_its_default() -> None:
    train = make_dataclass("Train", [("streams", int, 2)], bases=(TrainConfig,))
    bench = make_dataclass("Bench", [("rounds", int, 2)], bases=(BenchConfig,))
    table = identity.table_of(RunConfig(train=train(), bench=bench()))
    assert table["train.streams"] == identity._GROUPS["train"] | Decides.LATER
    assert Decides.OUTCOME | Decides.PARTNER | Decides.SETTING in table["train.streams"]
    assert table["bench.rounds"] == Decides.NOTHING
    root = make_dataclass("Root", [("depth", int, 0)], bases=(RunConfig,))
    assert identity.table_of(root())["depth"] == (Decides.OUTCOME | Decides.SETTING | Decides.LATER)


@pytest.mark.parametrize("group", ["task", "data", "schedule", "estimator", "train", "measure", ""])
def test_keys_of_runs_stay_where_a_field_came_later(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field of a group that is no part of a reference made every timing fail."""
    run, key = _run(), f"{group}.streams" if group else "streams"
    before = content_hash(run), reference_key(run, "cpu", 1)
    plain = RunConfig.to_dict

    def with_streams(self: RunConfig) -> dict[str, Any]:
        content = plain(self)
        (content[group] if group else content)["streams"] = 3 if self is other else 2
        return content

    other = _run()
    decides = identity._GROUPS.get(group, identity._GONE) | Decides.LATER
    monkeypatch.setattr(identity, "TABLE", {**TABLE, key: decides})
    monkeypatch.setattr(RunConfig, "to_dict", with_streams)
    assert (content_hash(run), reference_key(run, "cpu", 1)) == before
    assert content_hash(other) != before[0]
    counts = Decides.REFERENCE in decides and group != "train"
    assert (reference_key(other, "cpu", 1) != before[1]) == (counts or group == "train")


@pytest.mark.parametrize("overrides", HASHES)
def test_settings_of_recorded_runs_keep_their_hash(overrides: tuple[str, ...]) -> None:
    assert content_hash(_run(*overrides)) == HASHES[overrides]


def test_recorded_runs_keep_their_keys() -> None:
    files = sorted(EXAMPLES.rglob("record.json"))
    configs = [filled(json.loads(file.read_text())["config"]) for file in files]
    assert len(configs) == 18
    digests = [
        hashlib.sha256("\n".join(map(key, configs)).encode()).hexdigest()[:16]
        for key in (pairing_key, setting_key)
    ]
    assert digests == ["d73116bff060206b", "bb4d49d148243886"]


def test_a_key_that_came_later_counts_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run()
    before = content_hash(run)
    later = {**TABLE, "data.max_length": TABLE["data.max_length"] | Decides.LATER}
    monkeypatch.setattr(identity, "TABLE", later)
    default = content_hash(run)
    assert default != before  # left out at its default
    run.data.max_length = 64
    assert content_hash(run) != default


@pytest.mark.parametrize(
    ("override", "senses"),
    [
        ("seed=2", Decides.OUTCOME | Decides.PARTNER),
        ("train.learning_rate=0.5", Decides.OUTCOME | Decides.PARTNER | Decides.SETTING),
        ("svd_rank=4", Decides.OUTCOME | Decides.SETTING),
        ("measure.eval_rows=7", Decides.OUTCOME | Decides.PARTNER),
        ("measure.seconds=3", Decides.OUTCOME),
        ("train.threads=1", Decides.OUTCOME),
        (
            "lora.r=2",
            Decides.OUTCOME | Decides.PARTNER | Decides.SETTING | Decides.REFERENCE,
        ),
        (
            "data.quoting=csv",
            Decides.OUTCOME | Decides.PARTNER | Decides.SETTING | Decides.REFERENCE,
        ),
        ("tags=[mine]", Decides.NOTHING),
        ("train.checkpoint_every=3", Decides.NOTHING),
        ("bench.seq_len=64", Decides.NOTHING),
    ],
)
def test_a_setting_changes_just_the_keys_that_the_table_says(
    override: str, senses: Decides
) -> None:
    base = ("data=table", "data.path=lines.csv")
    before, after = _run(*base), _run(*base, override)
    assert (content_hash(before) != content_hash(after)) == (Decides.OUTCOME in senses)
    same = outcome_settings(before.to_dict()) == outcome_settings(after.to_dict())
    assert same == (Decides.OUTCOME not in senses)
    keys = {Decides.PARTNER: pairing_key, Decides.SETTING: setting_key}
    for sense, key in keys.items():
        assert (key(before.to_dict()) != key(after.to_dict())) == (sense in senses)
    references = [reference_key(run, "cpu", 1) for run in (before, after)]
    assert (references[0] != references[1]) == (Decides.REFERENCE in senses)


def test_a_reference_is_of_a_device_and_its_threads() -> None:
    run = _run()
    keys = {reference_key(run, *on) for on in (("cpu", 1), ("cpu", 2), ("gpu", 1))}
    assert len(keys) == 3


def test_references_of_before_a_setting_was_there_are_found() -> None:
    content = json.loads(reference_key(_run(), "cpu", 1))
    assert "quantization" not in content["model"]
    assert not {"quoting", "missing_label", "messages_column"} & set(content["data"])
    assert json.loads(reference_key(_run("train.batch_size=3"), "cpu", 1))["batch_size"] == 3


def test_keys_that_no_field_has_now_still_tell_runs_apart() -> None:
    older = filled({"model": {"name": "m", "gone": 1}, "gone": 1})
    newer = filled({"model": {"name": "m", "gone": 2}, "gone": 1})
    assert pairing_key(older) != pairing_key(newer)
    assert setting_key(older) != setting_key(newer)
    assert setting_key(older) != setting_key({**older, "gone": 2})
    assert pairing_key(older) == pairing_key({**older, "gone": 2})


def test_a_value_where_a_group_should_be_is_left() -> None:
    broken = filled({"model": [1], "measure": None})
    assert json.loads(pairing_key(broken))["model"] == [1]
    assert json.loads(pairing_key(broken))["eval_rows"] is None


@pytest.mark.parametrize(
    ("key", "shapes"),
    [
        ("svd_rank", True),
        ("layer_sparsity", True),
        ("layer_sparsity.layer.0", True),
        ("schedule", True),
        ("schedule.rule", True),
        ("estimator.every", True),
        ("calibration.batches", True),
        ("experiment", False),
        ("data", False),
        ("train.learning_rate", False),
        ("sparse", False),
        ("seed", False),
    ],
)
def test_what_an_experiment_fixes(key: str, shapes: bool) -> None:
    assert shapes_sparsity(key) == shapes
