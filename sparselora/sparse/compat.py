"""Hold the private names of torch and transformers that this package uses, in one place.

None is promised to stay: `tests/sparse/test_compat.py` says which one a new version has moved, and
it is mended here alone. Functions are bound once, and attributes are read by name (`getattr(module,
CHILDREN)`), since these run in each layer of a step, where one more call of Python's would be paid for
each time, and a compiled graph takes no `operator.attrgetter`.
"""

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

flash_attention_for_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_attention_for_cpu_backward = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
)
safe_softmax = torch._safe_softmax
"""softmax that gives zeros for a row of which nothing is left."""
softmax_backward = torch.ops.aten._softmax_backward_data
current_graph_task = torch._C._current_graph_task_id
"""The number of the backward pass that runs in this thread; −1 where none does."""
tree_leaves = _pytree.tree_leaves

VERSION = "_version"
"""Attribute of a tensor: how often it was written to in place."""
CHILDREN = "_modules"
"""Attribute of a module: its children by name, None among them."""
PARAMETERS = "_parameters"
FORWARD_HOOKS = "_forward_hooks"
FORWARD_PRE_HOOKS = "_forward_pre_hooks"
REPLICA = "_is_replica"
"""Attribute that marks a module as a copy which `nn.DataParallel` has made."""

OWN_LOSS = "_loss_function"
"""Attribute of transformers' model: a loss function that was set on it."""
ATTENTION = "_attn_implementation_internal"
"""Attribute of transformers' config: the name of its attention function, and of none below it."""


def is_bare(module: nn.Module) -> bool:
    """Return whether a module has no hook, and no forward beside its class's."""
    hooks: tuple[Any, ...] = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return "forward" not in module.__dict__ and not any(hooks)
