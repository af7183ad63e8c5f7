"""Hold the sizes of a model that settings are checked against; this loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """Hold the sizes that settings are checked against; read from a config, without weights."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
