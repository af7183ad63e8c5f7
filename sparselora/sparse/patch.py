"""Makes a model sparse while it trains, and takes it back exactly.

A block that is a module of its own is swapped for a stand-in that computes it sparsely. Elsewhere three
module instances are: lin1 and the activation hand their input through, and lin2 computes the whole block
sparsely. An attention map that is sliced is swapped by itself. A stand-in shares the parameters of what
it stands for, so names, state dict and optimizer see no difference. No class is touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.schedule import kept_channels, layer_sparsities
from sparselora.sparse.accelerate import Acceleration
from sparselora.sparse.blocks import FFNBlock, find_blocks, get_called
from sparselora.sparse.calibration import Calibration, LayerMoments, calibrate
from sparselora.sparse.calls import NoteBatch, NoteEnd, NoteLabels, state_of
from sparselora.sparse.config import PHASE_KEYS, SparsityConfig
from sparselora.sparse.last_layer import unshortened
from sparselora.sparse.projections import find_attention
from sparselora.sparse.sparse_attention import SparseAttention
from sparselora.sparse.sparse_ffn import SparseFFN
from sparselora.sparse.stand_in import (
    check_forward,
    pass_through,
    projection,
    put_back,
    sparse_output,
)
from sparselora.sparse.state import SparsityState


@dataclass(frozen=True)
class LayerReport:
    """What one layer was asked for and what it did."""

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
    """What `sparsify` returns: the switch, the report and the way back."""

    def __init__(
        self,
        model: nn.Module,
        blocks: list[FFNBlock],
        sparse: dict[str, SparseFFN],
        state: SparsityState,
        config: SparsityConfig,
        attention: Mapping[str, SparseAttention],
    ) -> None:
        # An acceleration's, in whose place ours come, and go again.
        self._last_layer_before = list(unshortened(model))
        self._acceleration = Acceleration(model)
        self._blocks = blocks
        self._sparse = sparse
        self._attention = attention
        self.state = state
        self.config = config
        self._removed = False
        self._swapped: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        # Columns that are gathered become rows in memory, so that all gathers read whole rows. A
        # parameter keeps its shape and its values; only the strides change.
        for weight in self._scattered():
            weight.data = weight.data.t().contiguous().t()
        for ffn in sparse.values():
            self._swap_in(ffn)
        for each in attention.values():
            self._swap_attention(each)
        self._acceleration.shorten(model)
        called = get_called(model)
        self._hooks = [
            called.register_forward_pre_hook(NoteBatch(state), with_kwargs=True),
            called.register_forward_hook(NoteEnd(state), always_call=True),
        ]
        if state.context_only:
            noted = NoteLabels(state)
            self._hooks.append(model.register_forward_pre_hook(noted, with_kwargs=True))
        state.handle = self

    @property
    def sparse_blocks(self) -> Mapping[str, SparseFFN]:
        """`layer.N` → its block, for the layers that are sparse at all."""
        return self._sparse

    @property
    def sparse_attention(self) -> Mapping[str, SparseAttention]:
        """`layer.N` → its attention, for the layers whose attention is sparse at all."""
        return self._attention

    @property
    def enabled(self) -> bool:
        """Whether training steps are sparse now."""
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
        """A row a layer, dense ones too, in order."""
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
        """What the patch holds from step to step beside the model's own tensors."""
        for ffn in self._sparse.values():
            yield from ffn.held()
        for attention in self._attention.values():
            yield from attention.held()

    def state_dict(self) -> dict[str, Any]:
        """What steps leave behind beside weights: choices that are kept, counts, generators."""
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
        """Put the original modules back: the same objects, the same memory layout."""
        if self._removed:
            return
        self.disable()
        for hook in self._hooks:
            hook.remove()
        self._acceleration.lengthen()
        for swapped in self._swapped:
            put_back(*swapped)
        for swapped in self._last_layer_before:
            put_back(*swapped, held=None)
        for weight in self._scattered():
            weight.data = weight.data.contiguous()
        self._acceleration.remove()
        self._removed = True

    def _scattered(self) -> Iterator[nn.Parameter]:
        for ffn in self._sparse.values():
            yield from ffn.block.scattered()
        for each in self._attention.values():
            yield from each.attention.scattered(each.roles)

    def _swap_attention(self, sparse: SparseAttention) -> None:
        layer = sparse.attention.layer
        for role in sparse.roles:
            path = sparse.attention.paths[role]
            self._put(layer, path, projection(layer.get_submodule(path), sparse, role))

    def _put(self, layer: nn.Module, path: str, stand_in: nn.Module) -> None:
        self._swapped.append((layer, path, layer.get_submodule(path), stand_in))
        layer.set_submodule(path, stand_in)

    def _swap_in(self, ffn: SparseFFN) -> None:
        layer, paths = ffn.block.layer, ffn.block.paths
        for path in paths[:-1]:
            self._put(layer, path, pass_through(layer.get_submodule(path), ffn))
        self._put(layer, paths[-1], sparse_output(layer.get_submodule(paths[-1]), ffn))


def sparsify(
    model: nn.Module,
    config: SparsityConfig,
    calibration: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | Calibration | None = None,
) -> SparsityHandle:
    """Make the FFN blocks of `model` sparse in training steps; starts switched on.

    Evaluation (`model.eval()`) is dense at all times. The FFN of a layer of sparsity 0 is left untouched.
    What surrounds the FFN is taken over by `accelerate`, dense steps included, until `remove()`. Where
    that computes the last layer for the first token alone, its channels are chosen by first tokens.

    Args:
        model: a transformers model whose FFN weights are frozen, as PEFT leaves them.
        config: see `SparsityConfig`.
        calibration: a batch that the model can be called with, several, or what `calibrate` made of
            them; needed by some estimators and by compensation, ignored by others.

    Raises:
        UserError: unknown architecture, a rank or a layer pattern that does not fit the model, FFN
            weights that train or carry more than plain LoRA, a model that is sparse already,
            calibration that is needed and not given, or that is another model's.
    """
    if state_of(model) is not None:
        raise UserError("model: sparse already; call remove() on its handle first")
    blocks = find_blocks(model)
    for block in blocks:
        config.check_rank(block.hidden_size, block.intermediate_size)
    if config.rule == "calibrated":
        raise UserError(
            "schedule.rule=calibrated: the sparsities are measured first; give "
            "sparsify(model, calibrated_config(model, config, calibration, batches), …)"
        )
    sparsities = layer_sparsities(
        config.rule, len(blocks), config.ffn_sparsity, config.layer_sparsity
    )
    kept = {
        block.name: kept_channels(sparsity, block.intermediate_size)
        for block, sparsity in zip(blocks, sparsities, strict=True)
    }
    sliced = [block for block in blocks if kept[block.name] < block.intermediate_size]
    for block in sliced:
        block.check_sliceable()
        for path in block.paths:
            check_forward(block.layer.get_submodule(path), f"{block.name}.{path}")
    moments = _moments(model, config, calibration)
    state = SparsityState(config.tokens == "context", config.sink_tokens, config.kind.fixed)
    sparse = {
        block.name: SparseFFN(block, config, kept[block.name], state, moments.get(block.name))
        for block in sliced
    }
    attention = {}
    if config.sparsifies_attention:
        shares = config.attention_sparsities(len(blocks))
        for each, (qk, vo) in zip(find_attention(model), shares, strict=True):
            if qk or vo:
                layer = moments.get(each.name)
                inputs = None if layer is None else layer.attention
                made = SparseAttention(each, config, qk, vo, state, inputs)
                each.check_sliceable(made.roles, bool(qk))
                for role in made.roles:
                    path = each.paths[role]
                    check_forward(each.layer.get_submodule(path), f"{each.name}.{path}")
                attention[each.name] = made
    handle = SparsityHandle(model, blocks, sparse, state, config, attention)
    handle.enable()
    ratios = [name for name in PHASE_KEYS if getattr(config, name)]
    if ratios:
        state.warning = (
            f"{', '.join(f'{name}={getattr(config, name):g}' for name in ratios)}: without effect, since "
            "nothing has set the step; give SparsityCallback(handle) to the Trainer, or call "
            "handle.set_step(step, total_steps) before each step (handle.enable(): sparse at all steps)"
        )
    return handle


def _moments(
    model: nn.Module,
    config: SparsityConfig,
    calibration: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | Calibration | None,
) -> Calibration:
    if not config.needs_calibration:
        return {}
    if not calibration:
        raise UserError(
            f"calibration: estimator={config.estimator} with compensation={config.compensation} "
            "needs at least one batch; give sparsify(…, calibration=batch)"
        )
    if not isinstance(calibration, Mapping):
        return calibrate(model, calibration, tokens=config.tokens, sink_tokens=config.sink_tokens)
    if isinstance(next(iter(calibration.values())), LayerMoments):
        for block in find_blocks(model):
            moments: Any = calibration.get(block.name)
            shape = (block.hidden_size, block.intermediate_size)
            if moments is None or tuple(moments.cross.shape) != shape:
                raise UserError(f"calibration: is another model's; {block.name} is {shape} here")
        return calibration  # type: ignore[return-value]
    return _moments(model, config, [calibration])  # type: ignore[list-item]
