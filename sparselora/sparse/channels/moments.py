"""Hold what a few batches say of each layer: moments of its inputs and of its FFN's activations.

Everything that estimators and compensation fit is a function of these moments, so the batches are gone
through once, whatever is fitted. With x (d,) a token's input to the block and a (f,) its activations:

    mean x, E[x xᵀ], mean a, E[a²], E[x aᵀ]

over the real tokens of all batches, in float64: covariances are differences of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(eq=False)
class InputMoments:
    """Hold means over the real tokens of the calibration batches, float64, on the model's device."""

    input_mean: Tensor
    """(d,)."""
    input_second: Tensor
    """(d, d): E[x xᵀ]."""

    def to(self, device: torch.device) -> "InputMoments":
        """Return the same moments on another device."""
        return InputMoments(self.input_mean.to(device), self.input_second.to(device))

    def input_covariance(self) -> Tensor:
        """Return the covariance of the inputs, (d, d)."""
        return self.input_second - torch.outer(self.input_mean, self.input_mean)


@dataclass(eq=False)
class LayerMoments(InputMoments):
    """Hold means of the FFN's input, as `InputMoments` does, its activations and attention's input."""

    activation_mean: Tensor
    """(f,)."""
    activation_square: Tensor
    """(f,): E[a²]."""
    cross: Tensor
    """(d, f): E[x aᵀ]."""
    attention_mean: Tensor
    """(d,): of the attention's input."""
    attention_second: Tensor
    """(d, d)."""

    @property
    def attention(self) -> InputMoments:
        """Return the moments of the attention's input."""
        return InputMoments(self.attention_mean, self.attention_second)

    def to(self, device: torch.device) -> "LayerMoments":
        """Return the same moments on another device."""
        return LayerMoments(*(getattr(self, field.name).to(device) for field in fields(self)))

    def cross_covariance(self) -> Tensor:
        """Return the covariances of inputs and activations, (d, f)."""
        return self.cross - torch.outer(self.input_mean, self.activation_mean)

    def activation_variance(self) -> Tensor:
        """Return the variances of the activations, (f,), not below 0."""
        return (self.activation_square - self.activation_mean.square()).clamp_min(0)


Calibration = Mapping[str, LayerMoments]
"""`layer.N` → its moments."""


def to_tensors(calibration: Calibration) -> dict[str, Tensor]:
    """Return the tensors, contiguous, as a safetensors file holds them: `layer.N/field` → tensor."""
    return {
        f"{layer}/{field.name}": getattr(moments, field.name).cpu().contiguous()
        for layer, moments in calibration.items()
        for field in fields(LayerMoments)
    }


def from_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> Calibration:
    """Return the calibration that `to_tensors` was given, on a device."""
    layers = {name.split("/")[0]: None for name in tensors}
    return {
        layer: LayerMoments(
            *(tensors[f"{layer}/{field.name}"].to(device) for field in fields(LayerMoments))
        )
        for layer in layers
    }
