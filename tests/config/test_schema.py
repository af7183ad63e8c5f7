"""The hash of a run's settings: records of older code are found by it."""

import pytest
from hydra import compose, initialize_config_dir

from sparselora.config import schema
from sparselora.config.schema import RunConfig, register_schema
from sparselora.paths import CONF
from sparselora.runs.checks import parse_job

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


def _run(overrides: tuple[str, ...]) -> RunConfig:
    register_schema()
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", list(overrides), return_hydra_config=True)
    return parse_job(config, overrides)


@pytest.mark.parametrize("overrides", HASHES)
def test_settings_of_recorded_runs_keep_their_hash(overrides: tuple[str, ...]) -> None:
    assert _run(overrides).content_hash() == HASHES[overrides]


def test_a_key_that_came_later_counts_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(())
    before = run.content_hash()
    monkeypatch.setattr(schema, "LATER_KEYS", ("data.max_length",))
    assert run.content_hash() != before  # left out at its default
    default = run.content_hash()
    run.data.max_length = 64
    assert run.content_hash() != default
