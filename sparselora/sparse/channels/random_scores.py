"""Draw scores at random, and keep what their generators go on from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparselora.errors import UserError


class RandomEstimator(nn.Module):
    """Draw scores anew each time: the lower reference that every estimator has to beat."""

    def __init__(self, intermediate_size: int, seed: int) -> None:
        super().__init__()
        self.intermediate_size = intermediate_size
        self.seed = seed
        self.generator: torch.Generator | None = None

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None = None) -> Tensor:
        """Return scores, (f,), uniform in [0, 1), on the device of `hidden_states`."""
        device = hidden_states.device
        if self.generator is None or self.generator.device != device:
            self.generator = torch.Generator(device=device).manual_seed(self.seed)
        return torch.rand(self.intermediate_size, generator=self.generator, device=device)


def checked_scorer(name: str, scorer: Any) -> nn.Module:
    """Return what an estimator's builder made, if it is what a step can call and a checkpoint can keep.

    Args:
        name: of the estimator, for messages.
        scorer: a module. One that draws keeps its `torch.Generator`, or None before it has drawn, as
            `generator` of the module that draws.

    Raises:
        UserError: it is no module, or a generator is of another kind.
    """
    if not isinstance(scorer, nn.Module):
        raise UserError(
            f"estimator={name}: its builder gave a {type(scorer).__name__}; a torch.nn.Module is needed"
        )
    for each in _drawing(scorer).values():
        generator: Any = each.generator
        if generator is not None and not isinstance(generator, torch.Generator):
            raise UserError(
                f"estimator={name}: {type(each).__name__}.generator is a {type(generator).__name__}; a "
                "torch.Generator, or None, is needed"
            )
    return scorer


@contextmanager
def left_alone(scorer: nn.Module) -> Iterator[None]:
    """Draw inside without a trace: afterwards the generators of `scorer` stand where they stood."""
    drawn: list[Any] = [*_drawing(scorer).values()]
    states = [None if each.generator is None else each.generator.get_state() for each in drawn]
    try:
        yield
    finally:
        for each, state in zip(drawn, states, strict=True):
            if state is None:
                each.generator = None
            elif each.generator is not None:
                each.generator.set_state(state)


def saved_generators(scorer: nn.Module) -> dict[str, Any]:
    """Return the states of a scorer's generators, None each before it has drawn.

    `generator` is of the scorer itself, `generators` of the modules in it, by name.
    """
    states = {
        path: None if each.generator is None else each.generator.get_state()
        for path, each in _drawing(scorer).items()
    }
    return {"generator": states.pop("", None), "generators": states}


def restore_generators(scorer: nn.Module, state: Mapping[str, Any], device: torch.device) -> None:
    """Have a scorer draw on from what `saved_generators` gave; what it lacks is left as it is."""
    saved = {"": state.get("generator"), **state.get("generators", {})}
    for path, each in _drawing(scorer).items():
        if saved.get(path) is not None:
            each.generator = torch.Generator(device=device)
            each.generator.set_state(saved[path])


def _drawing(scorer: nn.Module) -> dict[str, Any]:
    # By their paths, without that of the estimators' own dictionary, which states of before lack.
    return {
        path.removeprefix("drawn."): each
        for path, each in scorer.named_modules()
        if hasattr(each, "generator")
    }
