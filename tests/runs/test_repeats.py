import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sparselora.records.record import RunRecord
from sparselora.records.sections import RunContent
from sparselora.records.typed import read
from sparselora.runs.repeats import clearly_dominated, read_repeats, run_repeats, write_front
from tests.conftest import Outcome


def record(accuracy: float, reference: float = 100.0, high: float = 1.25) -> RunContent:
    content = {
        "metrics": {"validation": {"accuracy": accuracy}},
        "data": {"rows": {"validation": 900}},
        "timing": {"speedup_high": high},
        "dense_reference_ms": reference,
    }
    found = read(RunContent, content)
    assert found is not None
    return found


def test_dominated_is_only_what_surely_is() -> None:
    two = [record(0.70), record(0.72)]  # two standard errors are 0.030, the least ms/step is 80
    assert clearly_dominated(two, [(0.75, 79.0)])
    assert not clearly_dominated(two[:1], [(0.75, 79.0)])
    assert not clearly_dominated(two, [(0.735, 79.0)])
    assert not clearly_dominated(two, [(0.75, 81.0)])
    assert not clearly_dominated(two, [(0.735, 10.0), (0.9, 90.0)])
    assert not clearly_dominated(two, [])
    assert not clearly_dominated([record(0.7), replace(record(0.7), timing=None)], [(0.9, 1.0)])


def run(folder: Path, seeds: list[int], sweep: Path | None = None, fails_at: int = 0) -> list[Any]:
    def one(seed: int, child: Path) -> RunRecord:
        assert child.name == f"seed_{seed}"
        if seed == fails_at:
            raise RuntimeError("lost")
        done = RunRecord(child, RunContent())
        done.content = record(0.7)
        return done

    return run_repeats(seeds, folder, one, sweep)


def test_a_hopeless_setting_stops_after_two_seeds(tmp_path: Path) -> None:
    write_front(tmp_path, [(0.8, 70.0)])
    assert len(run(tmp_path / "a", [5, 6, 7], tmp_path)) == 2
    left = read_repeats(tmp_path / "a")
    assert left is not None
    assert (left.status, left.done, left.seeds) == ("completed", [5, 6], [5, 6, 7])
    assert "better in accuracy and in ms/step" in (left.stopped or "")
    assert len(run(tmp_path / "b", [5, 6, 7])) == 3


def test_what_was_done_stands_there_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, [1, 2, 3], fails_at=2)
    left = read_repeats(tmp_path)
    assert left is not None
    assert (left.status, left.done, left.error) == ("failed", [1], "RuntimeError: lost")


def test_a_run_over_seeds_is_the_runs_of_each(
    invoke: Callable[..., Outcome], tiny_overrides: list[str]
) -> None:
    outcome = invoke("seeds=[1,2]", *tiny_overrides)
    assert outcome.code == 0, outcome.err
    both = outcome.records()
    assert [one["config"]["seed"] for one in both] == [1, 2]
    alone = invoke("seed=2", "hydra.run.dir=alone", *tiny_overrides)
    again = json.loads((alone.folder / "alone" / "record.json").read_text())
    assert again["config_hash"] == both[1]["config_hash"]
    assert again["metrics"] == both[1]["metrics"]
    assert both[1]["overrides"][-1] == "seed=2"
    assert len({one["run_id"] for one in both}) == 2


def test_a_search_over_seeds_tells_means(
    invoke: Callable[..., Outcome], tiny_overrides: list[str]
) -> None:
    from tests.search.conftest import SEARCH
    from tests.search.test_search import trials

    own = {item.split("=")[0] for item in SEARCH}
    rest = [item for item in tiny_overrides if item.split("=")[0] not in own]
    outcome = invoke(
        *SEARCH,
        *rest,
        "seeds=[3,4]",
        "hydra.sweeper.named=[dense,original]",
        "hydra.sweeper.n_trials=2",
    )
    assert outcome.code == 0, outcome.err
    found = trials(outcome.folder)
    for trial in found:
        own_runs = [one for one in outcome.records() if one["label"] == trial.user_attrs["label"]]
        assert [one["config"]["seed"] for one in own_runs] == trial.user_attrs["seeds"] == [3, 4]
        accuracies = [one["metrics"]["validation"]["accuracy"] for one in own_runs]
        assert trial.values[0] == fmean(accuracies) == trial.user_attrs["accuracy"]
        assert trial.user_attrs["run_ids"] == [one["run_id"] for one in own_runs]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=[1,2]", "seed=3"], "seed=3: without effect beside seeds=[1,2]"),
        (["seeds=[]"], "seeds=[]: different whole numbers"),
        (["seeds=[1,1]"], "seeds=[1,1]: different whole numbers"),
        (["seeds=[-1]"], "seeds=[-1]: whole numbers from 0"),
    ],
)
def test_bad_seeds_are_a_line(
    invoke: Callable[..., Outcome], overrides: list[str], message: str
) -> None:
    outcome = invoke(*overrides)
    assert outcome.code == 2
    assert outcome.message[-1].startswith(f"error: {message}")
