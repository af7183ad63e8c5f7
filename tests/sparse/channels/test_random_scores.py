import torch
from torch import nn

from sparselora.sparse.channels.random_scores import (
    RandomEstimator,
    left_alone,
    restore_generator,
    saved_generator,
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
    before = saved_generator(scorer["a"])
    with left_alone(scorer):
        scorer["a"](x)
        scorer["b"](x)
    assert torch.equal(saved_generator(scorer["a"]), before)
    assert saved_generator(scorer["b"]) is None
    assert torch.equal(scorer["b"](x), RandomEstimator(9, 2)(x))


def test_a_generator_goes_on_where_it_was_saved() -> None:
    x = torch.zeros(1, 4)
    first, second = RandomEstimator(9, 1), RandomEstimator(9, 1)
    first(x)
    restore_generator(second, saved_generator(first), torch.device("cpu"))
    assert torch.equal(first(x), second(x))
    fresh = RandomEstimator(9, 1)
    restore_generator(fresh, None, torch.device("cpu"))
    assert fresh.generator is None
