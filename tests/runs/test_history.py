from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.records.sections import Scores
from sparselora.runs.history import History
from sparselora.training.loop import StepRow


def scores(step: int, accuracy: float) -> Scores:
    return Scores(step=step, sparse_steps=0.5 * step, accuracy=accuracy, f1=0.1, loss=1.0)


def history(accuracies: Sequence[float]) -> History:
    made = History()
    for step, accuracy in enumerate(accuracies):
        weight = torch.tensor([float(step)])
        made.add(scores(step, accuracy), lambda weight=weight: {"weight": weight})
    return made


@given(accuracies=st.lists(st.sampled_from([0.25, 0.5, 0.75]), max_size=6))
def test_the_best_is_the_first_of_the_highest(accuracies: list[float]) -> None:
    made = history(accuracies)
    assert made.evaluations == [scores(step, value) for step, value in enumerate(accuracies)]
    if not accuracies:
        assert (made.latest, made.best, made.best_state) == (None, None, {})
        return
    best = accuracies.index(max(accuracies))
    assert made.latest == scores(len(accuracies) - 1, accuracies[-1])
    assert made.best == scores(best, accuracies[best])
    assert made.best_state["weight"].item() == best


def test_it_says_whether_an_evaluation_is_the_best() -> None:
    made = History()
    told = [made.add(scores(0, value), dict) for value in (0.5, 0.5, 0.6, 0.4)]
    assert told == [True, False, True, False]


def test_a_checkpoint_holds_all_of_it(tmp_path: Path) -> None:
    made = history([0.5, 0.75, 0.25])
    made.rows.append(StepRow(1, "dense", 0.7, 1e-3, 2.0, 8, 80, 96, 0, 0, 12.5))
    torch.save(made.state_dict(), tmp_path / "state.pt")
    again = History()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.rows, again.evaluations, again.best) == (
        made.rows,
        made.evaluations,
        made.best,
    )
    assert torch.equal(again.best_state["weight"], made.best_state["weight"])
