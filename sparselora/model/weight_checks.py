"""Compare what a checkpoint was expected to hold with what came of it.

transformers makes up at random whatever weight it does not find. That is right for a new head, and never
for the stack that was trained before: there it is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.lookup import get_architecture, get_backbone

NAMED = 3
"""How many weights a message names."""


@dataclass(frozen=True)
class MadeNew:
    """Name the weights that no file gave, drawn at random."""

    trained: list[str]
    """Of the head, which trains."""
    frozen: list[str]
    """Of what stays as it was drawn, such as a pooler."""


def check_loaded(
    model: nn.Module, info: Mapping[str, Any], name: str, head_is_new: bool
) -> MadeNew:
    """Compare what transformers says of a load with what must come from the file.

    Args:
        model: just loaded, not wrapped.
        info: of `from_pretrained(…, output_loading_info=True, ignore_mismatched_sizes=True)`.
        name: of the checkpoint, for messages.
        head_is_new: whether what stands outside the backbone may be new.

    Returns:
        What was made new, and may be.

    Raises:
        UserError: a weight of the backbone is missing, has another size, is in the file and not in the
            model, or is not finite; likewise of the head where it is not new.
    """
    where = f"model.name_or_path={name}"
    prefix = _prefix(model)
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}

    def needed(key: str) -> bool:
        if not head_is_new:
            return True
        return key.startswith(prefix) and "pooler" not in key.removeprefix(prefix).split(".")

    missing = {key for key in info["missing_keys"] if key in parameters}
    sizes = {key: (there, wanted) for key, there, wanted in info["mismatched_keys"]}
    gone = sorted(filter(needed, missing))
    if gone and not head_is_new and not any(key.startswith(prefix) for key in gone):
        raise UserError(
            f"{where}: was saved without its language-model head ({_named(gone)}), by AutoModel or a "
            "classifier; one that AutoModelForCausalLM saved is needed"
        )
    if gone:
        raise UserError(
            f"{where}: {len(gone)} of the model's {len(parameters)} weights are not in its files "
            f"({_named(gone)}){_other_name(gone, info['unexpected_keys'], prefix)}; "
            "a checkpoint that holds them all is allowed"
        )
    resized = sorted(filter(needed, sizes))
    if resized:
        there, wanted = (" x ".join(map(str, size)) for size in sizes[resized[0]])
        raise UserError(
            f"{where}: {len(resized)} weights have another size than config.json says "
            f"({_named(resized)}: the first is {there} in the file, {wanted} by the config)"
        )
    unused = sorted(key for key in info["unexpected_keys"] if _is_of_backbone(model, key))
    if unused:
        raise UserError(
            f"{where}: its files hold {len(unused)} weights that the model of its config.json would "
            f"leave out ({_named(unused)}); a config with the same layers is allowed"
        )
    _check_values(model, where)
    new = sorted(missing | set(sizes))
    heads = tuple(f"{module}." for module in get_architecture(model.config).head)
    return MadeNew(
        trained=[key for key in new if key.startswith(heads)],
        frozen=[key for key in new if not key.startswith(heads)],
    )


def _check_values(model: nn.Module, where: str) -> None:
    spoilt = [
        key for key, tensor in model.named_parameters() if tensor.is_meta or not _is_finite(tensor)
    ]
    if spoilt:
        raise UserError(
            f"{where}: {len(spoilt)} of its weights are not finite numbers ({_named(spoilt)})"
        )


@torch.no_grad()
def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # One pass without a copy; not a number goes through both.
    return all(bool(end.isfinite()) for end in tensor.aminmax())


def _prefix(model: nn.Module) -> str:
    backbone = get_backbone(model)
    return "" if backbone is model else f"{model.base_model_prefix}."


def _is_of_backbone(model: nn.Module, key: str) -> bool:
    """Return whether an unused key looks like a weight of the stack or its embeddings."""
    first, *others = key.removeprefix(_prefix(model)).split(".")
    if not others or "pooler" in (first, *others) or others[-1] not in ("weight", "bias"):
        return False  # buffers of older releases, and poolers
    return first in dict(get_backbone(model).named_children())


def _other_name(missing: Iterable[str], unused: Iterable[str], prefix: str) -> str:
    """Return a hint at the prefix under which the file seems to hold what is missing."""
    known = set(unused)
    for key in missing:
        bare = key.removeprefix(prefix)
        for other in known:
            if other.endswith(f".{bare}"):
                front = other.removesuffix(key if other.endswith(f".{key}") else bare)
                return f"; the file seems to hold them under names that begin with {front!r}"
    return ""


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", …" if len(keys) > NAMED else "")
