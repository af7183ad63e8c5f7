"""Switch a sparse model, report on it, and take it back.

A block that is a module of its own computes itself sparsely. Elsewhere three modules do: lin1 and the
activation hand their input through, and lin2 computes the block. A projection of attention that is
sliced does so by itself. Each is the module that it was, of a class derived from its own (see `mixed`),
so names, state dict and optimizer see no difference, and no class is touched.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparselora.sparse.accelerate import Acceleration
from sparselora.sparse.backbone.ffn import FFNBlock
from sparselora.sparse.backbone.lookup import get_called, get_head
from sparselora.sparse.backbone.memory_layout import RowsInMemory
from sparselora.sparse.blocks.attention import SparseAttention
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.blocks.follow import FollowModel
from sparselora.sparse.blocks.stand_in import unwrap, wrap_attention, wrap_ffn
from sparselora.sparse.channels.call_hooks import NoteBatch, NoteEnd, NoteLabels
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.swap import new_owner, owned


@dataclass(frozen=True)
class LayerReport:
    """Describe what one layer was asked for and what it did."""

    name: str
    intermediate_size: int
    kept: int
    """Channels that a sparse call computes; f for a layer that stays dense."""
    sparsity: float
    """1 − kept / f."""
    realised_sparsity: float | None
    """Counted in the calls themselves; None before the first sparse one."""
    qk_sparsity: float = 0.0
    """Share of the channels of query and key that a sparse call leaves out; likewise the next."""
    vo_sparsity: float = 0.0


class SparsityHandle:
    """Switch a sparse model, report on it, and take it back; `sparsify` returns one."""

    def __init__(
        self,
        model: nn.Module,
        blocks: list[FFNBlock],
        sparse: dict[str, SparseFFN],
        state: SparsityState,
        config: SparsityConfig,
        attention: Mapping[str, SparseAttention],
    ) -> None:
        self._model = model  # the first, so that a copy of the handle copies the model as a whole
        self._blocks = blocks
        self._sparse = sparse
        self._attention = attention
        self.state = state
        self.config = config
        self._removed = False
        self._owner = new_owner()
        self._hooks: list[Any] = []
        self._layout = RowsInMemory()
        self._acceleration = Acceleration(model)
        try:
            self._patch()
        except BaseException:
            self.remove()
            raise
        state.handle = self

    def _patch(self) -> None:
        state, called = self.state, get_called(self._model)
        for ffn in self._sparse.values():
            ffn.called = called
            self._layout.lay(ffn.block.scattered_layers())
            wrap_ffn(ffn, self._owner)
        for each in self._attention.values():
            each.called = called
            self._layout.lay(each.attention.scattered_layers(each.roles))
            wrap_attention(each, self._owner)
        follow = FollowModel(
            state, [*self._sparse.values()], [*self._attention.values()], self._owner
        )
        self._hooks.append(called.register_forward_pre_hook(NoteBatch(state), with_kwargs=True))
        self._hooks.append(called.register_forward_pre_hook(follow))
        self._hooks.append(called.register_forward_hook(NoteEnd(state), always_call=True))
        if state.context_only:
            noted = NoteLabels(state)
            # The head's are those of a prompt's virtual tokens too; some adapters call its forward alone.
            for module in dict.fromkeys((self._model, get_head(self._model))):
                self._hooks.append(module.register_forward_pre_hook(noted, with_kwargs=True))

    @property
    def sparse_blocks(self) -> Mapping[str, SparseFFN]:
        """Return `layer.N` → its block, for the layers whose FFN is sparse at all."""
        return self._sparse

    @property
    def sparse_attention(self) -> Mapping[str, SparseAttention]:
        """Return `layer.N` → its attention, for the layers whose attention is sparse at all."""
        return self._attention

    @property
    def enabled(self) -> bool:
        """Return whether training steps are sparse now."""
        return self.state.enabled

    def enable(self) -> None:
        """Make training steps sparse from now on, at the full sparsity."""
        self.state.warning = None  # whoever switches knows that there is no schedule
        self._set_share(1.0)

    def set_step(self, step: int, total_steps: int) -> float:
        """Switch as the config's warm-up, ramp-up and cool-down ask for one optimizer step.

        Args:
            step: the one that comes next, from 1.
            total_steps: of the whole run.

        Returns:
            0 where the step is dense, 1 at the full sparsity, between the two while it rises.
        """
        share = self.config.phases(total_steps).share(step)
        self.state.warning = None
        self._set_share(share)
        return share

    def _set_share(self, share: float) -> None:
        if self._removed:
            raise RuntimeError("this model was taken back by remove(); call sparsify() again")
        self.state.switch(share)

    def disable(self) -> None:
        """Make training steps dense from now on."""
        self.state.warning = None
        self.state.switch(0.0)

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Make calls inside dense, and those after it what they were before."""
        with self.state.dense():
            yield

    @contextmanager
    def without_gradients(self) -> Iterator[None]:
        """Make calls that train nothing sparse too: in evaluation mode, or under `torch.no_grad()`.

        They are dense otherwise. Blocks compute sparsely where they are in training mode themselves. Such
        a call chooses its own channels, leaves counts and kept choices alone, and draws nothing.
        """
        before, self.state.without_gradients = self.state.without_gradients, True
        try:
            yield
        finally:
            self.state.without_gradients = before

    def report(self) -> list[LayerReport]:
        """Return a row for each layer, dense ones too, in order."""
        rows = []
        for block in self._blocks:
            ffn = self._sparse.get(block.name)
            kept = ffn.kept if ffn else block.intermediate_size
            attention = self._attention.get(block.name)
            qk_sparsity, vo_sparsity = attention.report if attention else (0.0, 0.0)
            rows.append(
                LayerReport(
                    name=block.name,
                    intermediate_size=block.intermediate_size,
                    kept=kept,
                    sparsity=1.0 - kept / block.intermediate_size,
                    realised_sparsity=ffn.realised_sparsity if ffn else 0.0,
                    qk_sparsity=qk_sparsity,
                    vo_sparsity=vo_sparsity,
                )
            )
        return rows

    def held(self) -> Iterator[Tensor]:
        """Return the tensors that stay from step to step beside the model's own."""
        for ffn in self._sparse.values():
            yield from ffn.held()
        for attention in self._attention.values():
            yield from attention.held()

    def state_dict(self) -> dict[str, Any]:
        """Return what steps leave behind beside weights: choices that are kept, counts, generators."""
        return {
            "forward_count": self.state.forward_count,
            "layers": {name: ffn.state_dict() for name, ffn in self._sparse.items()},
            "attention": {name: each.state_dict() for name, each in self._attention.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, on a model made sparse with the same config."""
        self.state.forward_count = state["forward_count"]
        for name, ffn in self._sparse.items():
            ffn.load_state_dict(state["layers"][name])
        for name, each in self._attention.items():
            each.load_state_dict(state["attention"][name])

    def remove(self) -> None:
        """Make every module what it was, wherever it is now: the same objects, the same memory layout."""
        if self._removed:
            return
        self.disable()
        for hook in self._hooks:
            hook.remove()
        modules = {*owned(self._model.modules(), self._owner)}
        for ffn in self._sparse.values():
            modules.update(ffn.modules)
        for each in self._attention.values():
            modules.update(linear.module for linear in each.attention.projections.values())
        for module in modules:
            unwrap(module, self._owner)
        self._layout.give_back()
        self._acceleration.remove()
        self._removed = True
