"""Draw scores at random, and keep what their generators go on from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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


@contextmanager
def left_alone(scorer: nn.Module) -> Iterator[None]:
    """Draw inside without a trace: afterwards the generators of `scorer` stand where they stood."""
    drawn = [each for each in scorer.modules() if isinstance(each, RandomEstimator)]
    states = [None if each.generator is None else each.generator.get_state() for each in drawn]
    try:
        yield
    finally:
        for each, state in zip(drawn, states, strict=True):
            if state is None:
                each.generator = None
            elif each.generator is not None:
                each.generator.set_state(state)


def saved_generator(drawn: nn.Module) -> Tensor | None:
    """Return the state of a module's generator; None where it has drawn nothing, or never draws."""
    generator: torch.Generator | None = getattr(drawn, "generator", None)
    return None if generator is None else generator.get_state()


def restore_generator(drawn: nn.Module, state: Tensor | None, device: torch.device) -> None:
    """Have a module draw on from what `saved_generator` gave."""
    if state is not None:
        generator = torch.Generator(device=device)
        generator.set_state(state)
        setattr(drawn, "generator", generator)  # noqa: B010 (a module's attribute)
