import optuna
import pytest

from sparselora.search.follow_up import follow_up, verdict
from sparselora.search.study.attributes import NAMED
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.storage import Storage
from sparselora.search.study.study import SharedStudy

FAST, SLOW = (1.3, 1.2, 1.4), (0.98, 0.9, 1.1)


@pytest.fixture
def study() -> SharedStudy:
    names = ["dense", "original", "optimized"]
    plan = Plan(
        "s", ["accuracy", "ms_per_step"], 3, names, 1, optuna.samplers.RandomSampler, max_drop=1.5
    )
    return SharedStudy(Storage(None), plan)


def run(study: SharedStudy, accuracy: float, speed: tuple[float, float, float] = FAST) -> str:
    """Runs the next trial; its name."""
    trial = study.ask()
    assert trial is not None
    middle, low, high = speed
    ms = 100 / middle
    attributes = {"accuracy": accuracy, "ms_per_step": ms, "speedup": middle}
    attributes |= {"speedup_low": low, "speedup_high": high}
    study.tell(trial.number, Outcome([accuracy, ms], None, attributes))
    return str(trial.user_attrs[NAMED])


def test_a_good_optimized_ends_the_plan(study: SharedStudy) -> None:
    for accuracy in (0.80, 0.79, 0.786):
        assert follow_up(study) == []
        run(study, accuracy)
    assert follow_up(study) == []
    assert verdict(study) == [
        "the setting that the plan comes to: optimized",
        "at least 1.11 × stock LoRA: 1.30 × (1.20 to 1.40), 76.9 ms/step: met",
        "accuracy of at least 0.7850: 0.7860, 1 seed: met",
    ]


def test_a_loss_calls_for_the_fallback_and_slowness_for_no_svd(study: SharedStudy) -> None:
    for accuracy in (0.80, 0.79, 0.77):
        run(study, accuracy)
    assert follow_up(study) == ["fallback"]
    study.extend(["fallback"])
    assert run(study, 0.78, SLOW) == "fallback"
    assert follow_up(study) == ["fallback estimator=static"]
    study.extend(follow_up(study))
    assert run(study, 0.79, SLOW) == "fallback estimator=static"
    assert follow_up(study) == []
    lines = verdict(study)
    assert lines[0].endswith("fallback estimator=static")
    assert lines[1].endswith("not met")
    assert lines[2].endswith(": met")


def test_a_slow_optimized_is_tried_without_its_svd(study: SharedStudy) -> None:
    for accuracy in (0.80, 0.79, 0.79):
        run(study, accuracy, SLOW)
    assert follow_up(study) == ["optimized estimator=static"]


def test_a_resumed_plan_goes_on_beyond_its_first_trials(study: SharedStudy) -> None:
    for accuracy in (0.80, 0.79, 0.77):
        run(study, accuracy)
    study.extend(["fallback"])
    run(study, 0.78, SLOW)
    again = SharedStudy(
        study.storage,
        Plan(
            "s",
            ["accuracy", "ms_per_step"],
            3,
            ["dense", "original", "optimized"],
            1,
            optuna.samplers.RandomSampler,
            max_drop=1.5,
        ),
    )
    again.extend(follow_up(again))
    assert run(again, 0.78) == "fallback estimator=static"


def test_what_failed_is_not_tried_for_ever(study: SharedStudy) -> None:
    for accuracy in (0.80, 0.79, 0.77):
        run(study, accuracy)
    study.extend(["fallback"])
    trial = study.ask()
    assert trial is not None
    study.tell(trial.number, Outcome.failed("lost"))
    assert follow_up(study) == []
