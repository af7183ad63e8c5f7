import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from sparselora.errors import UserError
from sparselora.records.record import RunRecord, read_record
from sparselora.runs.job import Origin, Silence, objectives, run_job
from tests.conftest import Outcome
from tests.runs.composed import composed


def test_a_job_needs_no_command_and_gives_what_the_command_gives(
    invoke: Callable[..., Outcome], tiny_overrides: list[str], tmp_path: Path
) -> None:
    overrides = [*tiny_overrides, "experiment=optimized", "train.max_steps=5"]
    assert invoke(*overrides, "hydra.run.dir=command").code == 0
    expected = json.loads((tmp_path / "command" / "record.json").read_text())
    labels, steps, ended = [], [], []

    class Watcher(Silence):
        def on_step(self, row, plan, latest) -> None:  # type: ignore[no-untyped-def]
            steps.append((row.step, plan.total_steps, latest and latest.step))

    @contextmanager
    def watch(label: str) -> Iterator[Watcher]:
        labels.append(label)
        yield Watcher()
        labels.append("left")

    origin = Origin(overrides, "optimized")
    for name in ("one", "two"):  # twice in a process
        run, sparsities = composed(overrides)
        (record,) = run_job(
            run, sparsities, tmp_path / name, origin, watch=watch, on_end=ended.append
        )
        content = json.loads((tmp_path / name / "record.json").read_text())
        assert list(content) == list(expected)
        assert record.content.to_dict() == content  # what is at hand is what is on disk
        assert read_record(tmp_path / name) == record.content
        for key in ("label", "experiment", "config", "config_hash", "overrides", "metrics", "data"):
            assert content[key] == expected[key], key
        assert objectives(record.content)[0] == expected["metrics"]["validation"]["accuracy"]
    assert labels == ["optimized", "left"] * 2
    assert steps == [(step, 5, 5 if step == 5 else None) for step in range(1, 6)] * 2
    assert [one.folder.name for one in ended] == ["one", "two"]
    rows = [pd.read_csv(tmp_path / name / "metrics.csv")["loss"] for name in ("command", "one")]
    assert rows[0].tolist() == rows[1].tolist()
    with pytest.raises(UserError, match="a run needs a folder of its own"):
        run_job(run, sparsities, tmp_path / "one")


def test_each_seed_has_a_record_that_repeats_it(tiny_overrides: list[str], tmp_path: Path) -> None:
    overrides = [*tiny_overrides, "train.max_steps=5", "seeds=[4,7]"]
    ended: list[RunRecord] = []
    run, sparsities = composed(overrides)
    records = run_job(run, sparsities, tmp_path / "job", Origin(overrides), on_end=ended.append)
    assert records == ended
    for record, seed in zip(records, (4, 7), strict=True):
        assert record.folder == tmp_path / "job" / f"seed_{seed}"
        assert record.content.config["seed"] == seed
        assert record.content.run_id == f"{tmp_path.name}/job/seed_{seed}"
        assert record.content.overrides == [*overrides[:-1], f"seed={seed}"]


@pytest.mark.parametrize(
    ("keep", "sweep", "kept"),
    [("auto", False, {"best", "last"}), ("auto", True, {"best"}), ("none", False, set())],
)
def test_adapters_that_are_kept(
    tiny_overrides: list[str], tmp_path: Path, keep: str, sweep: bool, kept: set[str]
) -> None:
    overrides = [*tiny_overrides, "train.max_steps=5", f"train.keep_checkpoints={keep}"]
    run, sparsities = composed(overrides)
    run_job(run, sparsities, tmp_path / "job", sweep=tmp_path if sweep else None)
    assert {path.name for path in tmp_path.glob("job/adapter/*")} == kept
