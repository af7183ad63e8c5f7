import json
from pathlib import Path
from typing import Any

import pytest

from sparselora.errors import UserError
from sparselora.records.record import FAILED
from sparselora.runs.repeats import REPEATS_NAME
from sparselora.search.study.outcome import OBJECTIVES, get_objectives, read_outcome
from tests.search.study.studies import record

BOTH = ["accuracy", "ms_per_step"]


def repeats(folder: Path, **changes: Any) -> None:
    content = {"status": "completed", "seeds": [1, 2, 3], "done": [1, 2], "stopped": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPEATS_NAME).write_text(json.dumps(content | {"error": None} | changes))


def test_a_run_gives_its_values_and_what_is_shown_beside_them(tmp_path: Path) -> None:
    record(tmp_path / "job", provenance={"device": "a card", "threads": 2})
    outcome = read_outcome(tmp_path / "job", [*BOTH, "speedup"])
    assert outcome is not None
    assert outcome.values == [0.75, 8.0, 1.5]
    assert outcome.attributes["device"] == "a card, 2 threads"
    assert outcome.attributes["run_id"] == "r"
    assert "loss" not in outcome.attributes


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_did_not_end_by_itself_has_no_outcome(tmp_path: Path, status: str) -> None:
    assert read_outcome(tmp_path / "nowhere", BOTH) is None
    record(tmp_path / "job", status=status)
    assert read_outcome(tmp_path / "job", BOTH) is None


def test_a_run_that_failed_has_its_reason(tmp_path: Path) -> None:
    record(tmp_path / "job", status=FAILED, error="out of memory")
    outcome = read_outcome(tmp_path / "job", BOTH)
    assert outcome is not None
    assert (outcome.values, outcome.reason) == (None, "out of memory")


def test_a_missing_value_says_why(tmp_path: Path) -> None:
    record(tmp_path / "job", ms_per_step=None, timing_error="no room")
    outcome = read_outcome(tmp_path / "job", BOTH)
    assert outcome is not None
    assert outcome.reason == "no ms_per_step in the record (no room)"


def test_several_seeds_give_their_means(tmp_path: Path) -> None:
    for seed, accuracy, ms in ((1, 0.7, 8.0), (2, 0.8, 10.0)):
        metrics = {"validation": {"accuracy": accuracy}}
        timing = {"speedup": 1.5, "speedup_low": 1.4}
        folder = tmp_path / f"seed_{seed}"
        record(folder, metrics=metrics, ms_per_step=ms, timing=timing, run_id=f"r{seed}")
    repeats(tmp_path, stopped="hopeless")
    outcome = read_outcome(tmp_path, BOTH)
    assert outcome is not None
    assert outcome.values == pytest.approx([0.75, 9.0])
    assert outcome.attributes["seeds"] == [1, 2]
    assert outcome.attributes["seeds_asked"] == [1, 2, 3]
    assert outcome.attributes["run_ids"] == ["r1", "r2"]
    assert outcome.attributes["stopped"] == "hopeless"
    assert "speedup_low" not in outcome.attributes  # a mean of ends is no interval's end


def test_seeds_of_which_one_failed_have_failed(tmp_path: Path) -> None:
    record(tmp_path / "seed_1")
    record(tmp_path / "seed_2", status=FAILED, error="lost")
    repeats(tmp_path)
    outcome = read_outcome(tmp_path, BOTH)
    assert outcome is not None
    assert (outcome.values, outcome.reason) == (None, "lost")
    repeats(tmp_path, status="running")
    assert read_outcome(tmp_path, BOTH) is None


def test_objectives_by_name() -> None:
    assert get_objectives(BOTH) == [OBJECTIVES[name] for name in BOTH]
    for names in (["speed"], [], ["accuracy", "accuracy"]):
        with pytest.raises(UserError, match=r"^hydra\.sweeper\.objectives"):
            get_objectives(names)
