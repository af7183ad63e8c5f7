import numpy as np
import pytest
import torch
from torch import nn

from sparselora.errors import UserError
from sparselora.sparse.channels.random_scores import (
    RandomEstimator,
    checked_scorer,
    left_alone,
    restore_generators,
    saved_generators,
)


def test_random_scores_follow_the_seed() -> None:
    x = torch.zeros(1, 4)
    first, again, other = RandomEstimator(50, 1), RandomEstimator(50, 1), RandomEstimator(50, 2)
    draw = first(x)
    assert torch.equal(draw, again(x))
    assert not torch.equal(draw, other(x))
    assert not torch.equal(draw, first(x))


def test_drawing_inside_leaves_no_trace() -> None:
    x = torch.zeros(1, 4)
    scorer = nn.ModuleDict({"a": RandomEstimator(9, 1), "b": RandomEstimator(9, 2)})
    scorer["a"](x)
    before = saved_generators(scorer["a"])["generator"]
    with left_alone(scorer):
        scorer["a"](x)
        scorer["b"](x)
    assert torch.equal(saved_generators(scorer["a"])["generator"], before)
    assert saved_generators(scorer["b"])["generator"] is None
    assert torch.equal(scorer["b"](x), RandomEstimator(9, 2)(x))


def test_a_generator_goes_on_where_it_was_saved() -> None:
    x = torch.zeros(1, 4)
    first, second = RandomEstimator(9, 1), RandomEstimator(9, 1)
    first(x)
    restore_generators(second, saved_generators(first), torch.device("cpu"))
    assert torch.equal(first(x), second(x))
    fresh = RandomEstimator(9, 1)
    restore_generators(fresh, {}, torch.device("cpu"))
    assert fresh.generator is None


class Drawing(nn.Module):
    """An estimator of a package's own, with a generator and a part that draws likewise."""

    def __init__(self, generator: object = None) -> None:
        super().__init__()
        self.generator = generator
        self.part = RandomEstimator(5, seed=3)

    def forward(self, hidden_states: torch.Tensor, token_weights: object = None) -> torch.Tensor:
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(2)
        return torch.rand(5, generator=self.generator) + self.part(hidden_states)


def test_whatever_draws_is_left_alone_saved_and_restored() -> None:
    """Generators of the built-in kind alone were: one's own went on, or were lost in a checkpoint."""
    states = torch.zeros(1, 4)
    first, second = Drawing(), Drawing()
    first(states)
    kept = saved_generators(first)
    with left_alone(first):
        inside = first(states)
    assert torch.equal(first(states), inside)
    restore_generators(second, kept, torch.device("cpu"))
    assert torch.equal(second(states), inside)


@pytest.mark.parametrize("made", [None, lambda *_: None, 3, Drawing(np.random.default_rng(1))])
def test_what_no_step_can_call_and_no_checkpoint_keep_is_a_line(made: object) -> None:
    with pytest.raises(UserError, match=r"^estimator=mine: ") as raised:
        checked_scorer("mine", made)
    assert "\n" not in str(raised.value)
    assert checked_scorer("mine", scorer := Drawing()) is scorer
