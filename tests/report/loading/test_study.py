from pathlib import Path

import optuna
import pytest

from sparselora import load_records
from sparselora.errors import UserError
from sparselora.report.__main__ import main
from sparselora.report.loading.study import importances, load_study
from tests.report.synthetic import run


@pytest.fixture
def url(tmp_path: Path) -> str:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(
        storage=storage, study_name="s", directions=["maximize", "minimize"]
    )
    study.set_metric_names(["accuracy", "ms_per_step"])
    ratio = optuna.distributions.FloatDistribution(0, 1)
    for number in range(12):
        share = number / 12
        study.add_trial(
            optuna.trial.create_trial(
                params={"ffn_sparsity": share, "other": (number % 3) / 3},
                distributions={"ffn_sparsity": ratio, "other": ratio},
                values=[0.8 - share / 10, 100 - 50 * share],
                user_attrs={"run_id": f"runs/{number}"},
            )
        )
    return storage


def test_trials_join_their_records(url: str, tmp_path: Path) -> None:
    for number in (3, 4):
        run(tmp_path / "runs" / f"{number}", run_id=f"runs/{number}")
    trials = load_study(url, records=load_records(tmp_path / "runs"))
    assert len(trials) == 12
    assert trials["run.accuracy"].notna().sum() == 2
    assert trials.set_index("run_id").loc["runs/3", "run.label"] == "dense"
    assert {"params_ffn_sparsity", "values_accuracy", "values_ms_per_step", "state"} <= set(trials)


def test_a_trial_without_a_run_joins_none(tmp_path: Path) -> None:
    # Missing keys are equal in a merge: such trials had joined an unreadable record.
    storage = f"sqlite:///{tmp_path / 'mixed.db'}"
    study = optuna.create_study(storage=storage, study_name="s")
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"run_id": 7, "state": "odd"}))
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    (tmp_path / "runs" / "cut").mkdir(parents=True)
    (tmp_path / "runs" / "cut" / "record.json").write_text("{")
    run(tmp_path / "runs" / "7", run_id="7")
    trials = load_study(storage, records=load_records(tmp_path / "runs"))
    assert trials["run.status"].fillna("none").tolist() == ["completed", "none"]


def test_a_trial_over_seeds_has_means_of_its_runs(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'seeds.db'}"
    study = optuna.create_study(storage=storage, study_name="s")
    for ids in (["7/1", "7/2"], ["8/1"]):
        study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"run_ids": ids}))
    for number, accuracy in (("7/1", 0.7), ("7/2", 0.8), ("8/1", 0.6)):
        run(tmp_path / "runs" / number, run_id=number, accuracy=accuracy)
    trials = load_study(storage, records=load_records(tmp_path / "runs"))
    assert trials["run.accuracy"].tolist() == pytest.approx([0.75, 0.6])
    assert trials["run.label"].tolist() == ["dense", "dense"]


def test_importance_looks_at_drawn_trials_alone(url: str) -> None:
    # A named trial has none of the parameters, and Optuna looks only at those that all share.
    study = optuna.load_study(study_name="s", storage=url)
    study.add_trial(optuna.trial.create_trial(values=[0.9, 100.0], user_attrs={"named": "dense"}))
    assert set(importances(url)["accuracy"]) == {"ffn_sparsity", "other"}


def test_report_of_runs_and_study(url: str, tmp_path: Path) -> None:
    run(tmp_path / "runs" / "3", run_id="runs/3")
    out = str(tmp_path / "out")
    assert main([str(tmp_path / "runs"), "--out", out, url]) == 0
    assert (tmp_path / "out" / "plots" / "importance.svg").exists()
    assert "study.csv" in {path.name for path in (tmp_path / "out").iterdir()}
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'none.db'}", study_name="s")
    assert main([f"sqlite:///{tmp_path / 'none.db'}", "--out", out]) == 0


def test_importance_by_objective(url: str) -> None:
    found = importances(url)
    assert set(found) == {"accuracy", "ms_per_step"}
    for shares in found.values():
        assert shares["ffn_sparsity"] > shares["other"]


def test_importance_of_too_few_trials_is_none(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'one.db'}"
    optuna.create_study(storage=storage, study_name="s")
    assert importances(storage) == {}
    assert load_study(storage).empty


def test_what_cannot_be_reached_is_one_line(url: str, tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path / 'gone.db'}"
    with pytest.raises(UserError, match="no such database"):
        load_study(missing)
    assert not (tmp_path / "gone.db").exists()
    with pytest.raises(UserError, match=r"no study 'x'; it holds s"):
        load_study(url, "x")
    optuna.create_study(storage=url, study_name="t")
    with pytest.raises(UserError, match=r"give --study; it holds s, t"):
        load_study(url)
    import sqlite3

    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("create table mine (x)")
    other.commit()
    with pytest.raises(UserError, match="holds no study"):
        load_study(f"sqlite:///{tmp_path / 'other.db'}")
    assert other.execute("select count(*) from sqlite_master").fetchone() == (1,)
    other.close()
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at")
    with pytest.raises(UserError, match="cannot be reached"):
        load_study(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(UserError, match="cannot be reached"):
        load_study("nonsense://x")
