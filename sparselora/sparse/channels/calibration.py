"""Run a model over a few batches and gather the moments of each of its layers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.calls import padding_mask
from sparselora.sparse.backbone.ffn import FFNBlock, find_blocks
from sparselora.sparse.backbone.lookup import get_called
from sparselora.sparse.backbone.paths import module_at
from sparselora.sparse.backbone.quantized import give_back, keep_trainable
from sparselora.sparse.channels.moments import Calibration, LayerMoments
from sparselora.sparse.channels.tokens import output_tokens


class _Sums:
    """Add up what one block sees over tokens, in float64: covariances are differences of sums."""

    def __init__(self, block: FFNBlock) -> None:
        self.block = block
        self.tokens = 0
        self.sums: list[Tensor] = []
        self.attention: list[Tensor] = []

    def add(self, hidden_states: Tensor, mask: Tensor | None) -> None:
        x = _scored(hidden_states, mask)
        a = self.block.activations(x)
        x, a = x.double(), a.double()
        new = [x.sum(0), x.T @ x, a.sum(0), a.square().sum(0), x.T @ a]
        self.sums = self.sums or [torch.zeros_like(more) for more in new]
        for total, more in zip(self.sums, new, strict=True):
            total.add_(more)
        self.tokens += len(x)

    def add_attention(self, hidden_states: Tensor, mask: Tensor | None) -> None:
        x = _scored(hidden_states, mask).double()
        new = [x.sum(0), x.T @ x]
        self.attention = self.attention or [torch.zeros_like(more) for more in new]
        for total, more in zip(self.attention, new, strict=True):
            total.add_(more)

    def moments(self) -> LayerMoments:
        """Return the moments, of the batches of all ranks where there are several."""
        count = torch.tensor(float(self.tokens), dtype=torch.float64, device=self.sums[0].device)
        if dist.is_available() and dist.is_initialized():
            for total in (count, *self.sums, *self.attention):
                dist.all_reduce(total)
        if not count:
            raise UserError("calibration: its batches hold no token that is real and context")
        attention = self.attention or [torch.full_like(each, torch.nan) for each in self.sums[:2]]
        return LayerMoments(*(total / count for total in (*self.sums, *attention)))


def _scored(hidden_states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the tokens of the mask, (n, d); a prompt's virtual tokens before them are none."""
    if mask is not None and hidden_states.dim() == 3:
        hidden_states = hidden_states[:, -mask.shape[1] :]
    x = hidden_states.reshape(-1, hidden_states.shape[-1])
    return x if mask is None else x[mask.reshape(-1) != 0]


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    tokens: str = "all",
    sink_tokens: int = 0,
) -> Calibration:
    """Run the model, dense and in evaluation mode, over `batches`, and return moments by layer.

    Under `torch.distributed` every rank calls it, on batches of its own, and all get the same moments.

    Args:
        model: not sparse yet; left in the mode it was in.
        batches: what the model is called with; moved to its device. Padding, by their
            `attention_mask`, is left out.
        context: makes the context that a forward pass runs in, such as autocast.
        tokens: `context` leaves output tokens out, which stay dense.
        sink_tokens: with `context`, how many first tokens of a sequence are left out too.

    Raises:
        UserError: no batch, a batch that the model cannot be called with, or, of context, one without
            a label for each token; an FFN whose channels cannot be left out.
    """
    if not batches:
        raise UserError("calibration: at least one batch is needed")
    blocks = find_blocks(model)
    for block in blocks:
        block.check_sliceable()
    sums = {block.name: _Sums(block) for block in blocks}
    scored: list[Tensor | None] = [None]
    mask: list[Tensor | None] = [None]
    seen: set[str] = set()

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        mask[0] = padding_mask(module, args, kwargs) if scored[0] is None else scored[0]
        seen.clear()

    def collect(name: str) -> object:
        return lambda _, args: sums[name].add(args[0], mask[0])

    def collect_attention(name: str) -> object:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # DeBERTa puts relative positions through the same projection, after the hidden states.
            if name not in seen:
                seen.add(name)
                sums[name].add_attention(args[0], mask[0])

        return add

    hooks = [get_called(model).register_forward_pre_hook(note, with_kwargs=True)]
    for name, each in sums.items():
        hooks.append(each.block.entry.register_forward_pre_hook(collect(name)))  # type: ignore[arg-type]
        query = module_at(each.block.layer, each.block.architecture.attention[0])
        if query is None:
            continue  # an adapter is around the attention, which is refused where it is to be sparse
        hooks.append(query.register_forward_pre_hook(collect_attention(name)))  # type: ignore[arg-type]
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    packing = keep_trainable(model)
    model.eval()
    try:
        for batch in batches:
            inputs = {name: value.to(device) for name, value in batch.items()}
            scored[0] = _context_tokens(inputs, sink_tokens) if tokens == "context" else None
            try:
                with context():
                    model(**inputs)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"calibration: the model cannot be called with {sorted(inputs)} ({error})"
                ) from error
    finally:
        for hook in hooks:
            hook.remove()
        give_back(packing)
        for module, mode in modes.items():
            module.training = mode
    return {name: each.moments() for name, each in sums.items()}


def _context_tokens(batch: Mapping[str, Tensor], sink_tokens: int) -> Tensor:
    labels = batch.get("labels")
    if labels is None or labels.dim() != 2:
        raise UserError("calibration: tokens=context takes batches with a label for each token")
    dense, real = output_tokens(
        labels, batch.get("attention_mask"), sink_tokens, batch.get("position_ids")
    )
    return real & ~dense
