import shlex
from pathlib import Path

import pytest

from sparselora.report.analysis.rows import command
from sparselora.report.loading.load import load_records
from tests.cli.lines import MAINS, Invoke, tiny
from tests.conftest import Outcome


def again(outcome: Outcome) -> list[list[str]]:
    """The words of the command that a report prints for each run, after the module's name."""
    rows = load_records(str(outcome.folder)).to_dict("records")
    printed = [shlex.split(str(command(row))) for row in rows]
    assert all(words[:3] == ["python", "-m", "sparselora.run"] for words in printed)
    return [words[3:] for words in printed]


def test_the_command_of_a_report_runs_it_again(
    invoke: Invoke, tiny_overrides: list[str], own_folder: Path
) -> None:
    given = [*tiny(tiny_overrides, ("data=", "train.max_steps=")), "data=mine", "train.max_steps=5"]
    first = invoke(*given, "--config-dir", own_folder.name, "-m", "+sweep=mine")
    assert first.code == 0, first.err
    hashes = [record["config_hash"] for record in first.records()]
    assert len(set(hashes)) == 2
    assert [record["config"]["lora"]["r"] for record in first.records()] == [2, 2]
    for words, expected in zip(again(first), hashes, strict=True):
        assert "--config-dir" in words
        (outcome,) = [invoke(*words, "hydra.run.dir=again")]
        assert outcome.code == 0, outcome.err
        record = next(iter((outcome.folder / "again").rglob("record.json")))
        assert expected in record.read_text()
        record.unlink()


def test_the_command_of_a_trial_of_a_shipped_sweep(
    invoke: Invoke, tiny_overrides: list[str]
) -> None:
    given = [*tiny(tiny_overrides, ("train.max_steps=",)), "train.max_steps=5"]
    first = invoke(*given, "-m", "+sweep=headline", "svd_rank=3", "ffn_sparsity=0.5")
    assert first.code == 0, first.err
    ((words), (record,)) = again(first), first.records()
    assert not any("sweep" in word for word in words[0])
    assert invoke(*words[0], "hydra.run.dir=again").code == 0
    assert record["config_hash"] in (first.folder / "again" / "record.json").read_text()


@pytest.mark.parametrize("name", MAINS)
def test_paths_are_taken_from_where_the_user_stands(
    invoke: Invoke, tiny_overrides: list[str], table_file: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "lines.csv").write_text(table_file.read_text())
    extra = ["svd_rank=3", "hydra.job.chdir=true", "data.path=lines.csv"]
    if name == "run":
        extra += ["train.max_steps=5", "train.checkpoint_every=2"]
    else:
        extra += ["measure.max_rounds=2", "measure.min_rounds=2", "measure.batches=2"]
    outcome = invoke(*tiny(tiny_overrides, tuple(extra), name), *extra, main=MAINS[name])
    assert outcome.code == 0, outcome.err
    assert Path.cwd() == tmp_path
    assert len(list(tmp_path.glob("outputs/runs/*/*.json"))) == 1
