"""Find the attention projections of a model: query, key, value and output.

With e = head_dim, G heads of keys and values and R heads of queries to each, query is (G·R·e, d), key and
value are (G·e, d) and output is (d, G·R·e). A fused one holds query above key above value.
"""

from collections.abc import Iterable, Iterator
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

ROLES = ("query", "key", "value", "output")


@dataclass(eq=False)
class Attention:
    """Hold where the attention of one layer in a live model has its projections."""

    name: str
    """`layer.N`, whatever the architecture calls it."""
    layer: nn.Module
    architecture: Architecture
    key_value_heads: int
    """G: heads of keys and values."""
    groups: int
    """R: heads of queries to each head of keys."""
    head_dim: int
    """e: channels of a head."""
    rotary_share: float
    """Share of a head's channels that a rotation by position mixes, where the architecture has one."""
    projections: dict[str, LinearLayer]
    """The projections by role; where query, key and value are one, all three are that one."""

    @property
    def fused(self) -> bool:
        """Return whether query, key and value are one projection."""
        return self.architecture.fused_attention

    @property
    def hidden_size(self) -> int:
        """Return d, the width of the layer's input."""
        return self.projections["query"].shape[1]

    def rows(self, role: str) -> slice:
        """Return where query, key or value stand among their projection's rows."""
        keys = self.key_value_heads * self.head_dim
        sizes = {"query": keys * self.groups, "key": keys, "value": keys}
        if not self.fused:
            return slice(0, sizes[role])
        starts = {"query": 0, "key": sizes["query"], "value": sizes["query"] + keys}
        return slice(starts[role], starts[role] + sizes[role])

    def weight(self, role: str) -> Tensor:
        """Return the weight of query, key or value: (its rows, d)."""
        return self.projections[role].weight[self.rows(role)]

    def bias(self, role: str) -> Tensor | None:
        """Return the bias of query, key or value, (its rows,), or None."""
        bias = self.projections[role].bias
        return None if bias is None else bias[self.rows(role)]

    @property
    def entry(self) -> nn.Module:
        """Return the module whose first argument is the attention's input."""
        return self.layer.get_submodule(self.architecture.attention[0])

    @property
    def paths(self) -> dict[str, str]:
        """Return the projections' paths below the layer, by role."""
        return dict(zip(ROLES, self.architecture.attention, strict=True))

    @property
    def is_current(self) -> bool:
        """Return whether its projections are still where they were found.

        PEFT puts others in their place, or around them.
        """
        paths = self.paths
        return all(
            module_at(self.layer, paths[role]) is linear.module
            for role, linear in self.projections.items()
        )

    def looked_up(self) -> "Attention":
        """Return the same layer's attention, with the modules that are at its paths now."""
        projections = find_projections(self.architecture, self.layer, self.name)
        return replace(self, projections=projections)

    def check_sliceable(self, roles: Iterable[str], queries: bool) -> None:
        """Raise a `UserError` unless channels of these projections can be left out.

        Args:
            roles: the projections that are to be sliced.
            queries: whether some of query and key are; where all three are one, the roles do not say.
        """
        for role in roles:
            path = self.paths[role]
            check_sliceable(self.layer, path, self.name, "attention")
            check_forward(self.projections[role].module, f"{self.name}.{path}")
        if queries and self.architecture.rotary and self.rotary_share != 1.0:
            raise UserError(
                f"model: a rotation of {self.rotary_share:g} of each head's channels; only one of all "
                "of them is allowed in sparse queries and keys, whose pairs stay together"
            )

    def scattered(self, roles: Iterable[str] = ROLES) -> Iterator[nn.Parameter]:
        """Yield the weights of these projections whose channels do not lie in whole rows of memory."""
        yield from (base.get_parameter("weight") for base in self.scattered_layers(roles))

    def scattered_layers(self, roles: Iterable[str] = ROLES) -> Iterator[nn.Module]:
        """Yield the modules that hold the weights of `scattered`, without adapters."""
        bases = {role: self.projections[role].base for role in roles}
        bases = {role: base for role, base in bases.items() if not is_quantized(base)}
        inputs = {id(base): base for role, base in bases.items() if role != "output"}
        yield from (base for base in inputs.values() if _transposed(base))
        if "output" in bases and not _transposed(bases["output"]):
            yield bases["output"]


def _transposed(base: nn.Module) -> bool:
    return isinstance(base, Conv1D)


def _rotary_share(config: Any) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    # Models whose layers differ have a dict for each kind of layer.
    kinds = [each for each in parameters.values() if isinstance(each, dict)] or [parameters]
    shares = [each.get("partial_rotary_factor") for each in kinds]
    shares.append(getattr(config, "partial_rotary_factor", None))
    return min((float(share) for share in shares if share is not None), default=1.0)


def find_projections(row: Architecture, layer: nn.Module, name: str) -> dict[str, LinearLayer]:
    """Return the attention projections of one layer by role.

    Raises:
        UserError: one is not where the architecture has it.
    """
    return {
        role: LinearLayer(required(layer, path, name))
        for role, path in zip(ROLES, row.attention, strict=True)
    }


def find_attention(model: nn.Module) -> list[Attention]:
    """Find the attention of each layer of a transformers model, in order of depth.

    PEFT may have wrapped the model.

    Raises:
        UserError: the architecture is unknown.
    """
    backbone = get_backbone(model)
    config: Any = backbone.config
    architecture = get_architecture(config)
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rotary_share = _rotary_share(config)
    found = []
    layers = backbone.get_submodule(architecture.layers)
    for index, layer in enumerate(layers.children()):
        name = f"layer.{index}"
        projections = find_projections(architecture, layer, name)
        found.append(
            Attention(
                name=name,
                layer=layer,
                architecture=architecture,
                key_value_heads=keys,
                groups=heads // keys,
                head_dim=head_dim,
                rotary_share=rotary_share,
                projections=projections,
            )
        )
    return found
