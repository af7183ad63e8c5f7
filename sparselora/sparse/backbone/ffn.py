"""Find the FFN blocks of a model, by the table of architectures.

Every block is read as lin1 → activation → lin2, or, where it has a gate, as
lin2(activation(gate(x)) · lin1(x)). With d = hidden_size and f = intermediate_size, lin1 and the gate
are (f, d) and lin2 is (d, f), however the model stores them: a fused layer holds the gate above lin1, and
GPT-2's Conv1D holds each layer transposed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sparselora.errors import UserError
from sparselora.sparse.backbone.architecture import Architecture
from sparselora.sparse.backbone.linear_layer import LinearLayer, check_sliceable
from sparselora.sparse.backbone.lookup import get_architecture, get_backbone
from sparselora.sparse.backbone.paths import check_forward, module_at, required
from sparselora.sparse.backbone.quantized import is_quantized
from sparselora.sparse.swap import plain_view


@dataclass(eq=False)
class FFNBlock:
    """Hold where one FFN block of a live model has its layers."""

    name: str
    """`layer.N`, whatever the architecture calls it."""
    layer: nn.Module
    architecture: Architecture
    lin1: LinearLayer
    activation: nn.Module
    """A view of the activation without the sparse block's wrapper."""
    lin2: LinearLayer
    gate: LinearLayer | None
    found: dict[str, nn.Module]
    """What was at which path below the layer when this was made."""

    @property
    def hidden_size(self) -> int:
        """Return d, the width of the block's input and output."""
        return self.lin1.shape[1]

    @property
    def intermediate_size(self) -> int:
        """Return f, how many channels the block has."""
        return self.lin1.shape[0]

    def weights(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the weights of lin1, lin2 and the gate.

        Of a fused layer of 4 bits both parts come from one computation.
        """
        lin1, gate = self.lin1, self.gate
        if gate is not None and gate.module is lin1.module:
            parts = replace(lin1, part=None).weight.chunk(2)
            return parts[lin1.part or 0], self.lin2.weight, parts[gate.part or 0]
        return lin1.weight, self.lin2.weight, None if gate is None else gate.weight

    @property
    def has_adapters(self) -> bool:
        """Return whether a layer of the block carries an adapter that is on."""
        linears = (self.lin1, self.lin2, self.gate)
        return any(linear is not None and linear.adapter is not None for linear in linears)

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the paths of the modules that get a wrapper, below the layer.

        First those that hand their input on while the block is sparse, last the one that computes it.
        """
        row = self.architecture
        return (row.lin1, row.activation, row.lin2) if row.whole is None else (row.whole,)

    @property
    def is_current(self) -> bool:
        """Return whether its modules are still where they were found.

        PEFT puts others in their place, or around them.
        """
        return all(module_at(self.layer, path) is module for path, module in self.found.items())

    def check_sliceable(self) -> None:
        """Raise a `UserError` unless the block's channels can be left out."""
        row = self.architecture
        for path, module in self.found.items():
            check_forward(module, f"{self.name}.{path}")
        rate = 0.0 if row.inner_dropout is None else self.layer.get_submodule(row.inner_dropout).p
        if rate:
            raise UserError(f"model: {self.name}.{row.inner_dropout} drops {rate}; 0 is allowed")
        for linear in dict.fromkeys((row.lin1, row.lin2, row.gate)):
            if linear is not None:
                check_sliceable(self.layer, linear, self.name, "FFN")

    @property
    def merged(self) -> tuple[tuple[object, ...], ...]:
        """Return what may change of each layer's weight, see `LinearLayer.merged`."""
        linears = (self.lin1, self.lin2, self.gate)
        return tuple(() if linear is None else linear.merged for linear in linears)

    @property
    def entry(self) -> nn.Module:
        """Return the module whose first argument is the block's input."""
        return self.layer.get_submodule(self.architecture.whole or self.architecture.lin1)

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """Compute the dense block by its own modules, their adapters and dropout included.

        Shapes: hidden states and result (n, d).
        """
        up = self.lin1.module(hidden_states)
        if self.gate is None:
            activations = self.activation(up)
        elif self.gate.module is self.lin1.module:
            gate, up = up.chunk(2, dim=-1)
            activations = self.activation(gate) * up
        else:
            activations = self.activation(self.gate.module(hidden_states)) * up
        output: Tensor = self.lin2.module(activations)
        return output

    def activations(self, hidden_states: Tensor) -> Tensor:
        """Return what lin2 is applied to, (n, f), for hidden states (n, d)."""
        hidden_states = hidden_states.to(self.lin1.dtype(hidden_states))
        if self.gate is None:
            activations: Tensor = self.activation(self.lin1(hidden_states))
            return activations
        gated: Tensor = self.activation(self.gate(hidden_states)) * self.lin1(hidden_states)
        return gated

    def scattered(self) -> Iterator[nn.Parameter]:
        """Yield the weights whose channels do not lie in whole rows of memory, as the model has them."""
        yield from (base.get_parameter("weight") for base in self.scattered_layers())

    def scattered_layers(self) -> Iterator[nn.Module]:
        """Yield the modules that hold the weights of `scattered`, without adapters."""
        for linear, by_rows in ((self.lin1, True), (self.gate, True), (self.lin2, False)):
            # A Conv1D is stored transposed.
            if linear is None or is_quantized(linear.base):
                continue
            if by_rows == isinstance(linear.base, Conv1D):
                yield linear.base


def find_blocks(model: nn.Module) -> list[FFNBlock]:
    """Find the FFN blocks of a transformers model, wrapped by PEFT or not, in order of depth.

    Raises:
        UserError: the architecture is unknown.
    """
    backbone = get_backbone(model)
    config: Any = backbone.config
    architecture = get_architecture(config)
    if getattr(config, "chunk_size_feed_forward", 0):
        raise UserError(
            f"model: chunk_size_feed_forward={config.chunk_size_feed_forward}: only 0 is allowed, "
            "since channels are chosen for a whole batch"
        )
    layers = backbone.get_submodule(architecture.layers)
    return [
        find_block(architecture, layer, f"layer.{index}")
        for index, layer in enumerate(layers.children())
    ]


def find_block(row: Architecture, layer: nn.Module, name: str) -> FFNBlock:
    """Find the FFN block of one layer.

    Raises:
        UserError: a module of it is not where the architecture has it.
    """
    fused = row.gate == row.lin1
    paths = (row.whole, row.lin1, row.activation, row.lin2, row.gate)
    found = {path: required(layer, path, name) for path in paths if path is not None}
    gate = None if row.gate is None else found[row.gate]
    return FFNBlock(
        name=name,
        layer=layer,
        architecture=row,
        lin1=LinearLayer(found[row.lin1], 1 if fused else None),
        activation=plain_view(found[row.activation]),
        lin2=LinearLayer(found[row.lin2]),
        gate=None if gate is None else LinearLayer(gate, 0 if fused else None),
        found=found,
    )
