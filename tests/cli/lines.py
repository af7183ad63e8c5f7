"""Share between tests of command lines what makes a run tiny, and what a refusal is."""

from collections.abc import Callable

from sparselora import bench, run
from tests.conftest import Outcome

Invoke = Callable[..., Outcome]
MAINS = {"run": run.main, "bench": bench.main}


def tiny(overrides: list[str], given: tuple[str, ...], name: str = "run") -> list[str]:
    """What makes a run tiny, but for keys that are given, and for what only training looks at."""
    keys = {each.lstrip("+~").partition("=")[0] for each in given}
    kept = [each for each in overrides if each.partition("=")[0] not in keys]
    training = ("train.max_steps", "measure.eval", "measure.timing")
    return kept if name == "run" else [each for each in kept if not each.startswith(training)]


def assert_one_line(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome.err + outcome.out
    assert len(outcome.message) == 1, outcome.message
    assert outcome.message[0].startswith("error: ")
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in outcome.message[0], outcome.message[0]
    assert not outcome.records()
