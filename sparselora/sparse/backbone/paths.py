"""Find modules by their paths, and name in errors what is there."""

from typing import Any

from torch import nn

from sparselora.errors import UserError
from sparselora.sparse.compat import CHILDREN
from sparselora.sparse.swap import unmixed


def module_at(layer: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a dotted path, None where there is none."""
    module: Any = layer
    for name in path.split("."):
        module = getattr(module, CHILDREN).get(name)
        if module is None:
            return None
    found: nn.Module = module
    return found


def required(layer: nn.Module, path: str, name: str) -> nn.Module:
    """Return the module at a path below a layer of that name.

    Raises:
        UserError: it is not there; the message names what is, and the kind of adapter that put it there.
    """
    module = module_at(layer, path)
    if module is not None:
        return module
    there, at = layer, name
    for part in path.split("."):
        below = module_at(there, part)
        if below is None:
            break
        there, at = below, f"{at}.{part}"
    raise UserError(
        f"model: {name}.{path} is not there, since {at} is {kind_of(there)}; the architecture's own "
        "modules are allowed"
    )


def kind_of(module: nn.Module) -> str:
    """Return what to call a module's class in a message: with the PEFT method that it is of."""
    kind = unmixed(type(module))
    package = kind.__module__.split(".")
    if package[:2] != ["peft", "tuners"] or len(package) < 3:
        return f"a {kind.__name__}"
    method = package[2].upper()
    return f"PEFT's {kind.__name__} ({method})"


def check_forward(module: nn.Module, where: str) -> None:
    """Raise a `UserError` where a module has a forward of its own, beside its class's."""
    if "forward" in module.__dict__:
        raise UserError(
            f"model: {where} has a forward of its own, as accelerate gives modules that it places "
            "(device_map); place the model on one device as a whole"
        )
