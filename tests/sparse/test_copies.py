"""What modules hold is copied with the whole model alone."""

import copy

from torch import nn

from sparselora.sparse.copies import CopiedWithModel


class Held(CopiedWithModel):
    def __init__(self) -> None:
        self.values = [1, 2]


def model_with(held: Held) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    held.called = model
    model[0].__dict__["held"] = (held,)
    return model


def test_a_copy_of_the_model_has_one_of_its_own() -> None:
    held = Held()
    model = model_with(held)
    clone = copy.deepcopy(model)
    (other,) = clone[0].__dict__["held"]
    assert other is not held
    assert other.called is clone
    assert other.values == held.values
    assert other.values is not held.values


def test_a_copy_of_a_part_has_none() -> None:
    model = model_with(Held())
    assert copy.deepcopy(model[0]).__dict__["held"] == (None,)


def test_one_that_is_not_in_a_model_yet_is_copied() -> None:
    assert copy.deepcopy(Held()).values == [1, 2]
