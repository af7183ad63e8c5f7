"""Makes a model sparse while it trains, and takes it back exactly.

A block that is a module of its own is swapped for a stand-in that computes it sparsely. Elsewhere three
module instances are: lin1 and the activation hand their input through, and lin2 computes the whole block
sparsely. A stand-in shares the parameters of what it stands
for, so names, state dict and optimizer see no difference. No class is touched.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.schedule import kept_channels, layer_sparsities
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.blocks import FFNBlock, find_blocks, get_backbone
from sparselora.sparse.calibration import Calibration, LayerMoments, calibrate
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.sparse_ffn import SparseFFN
from sparselora.sparse.state import NoteBatch, SparsityState


class StandIn(nn.Module):
    """Stands in a model for `original`, whose parameters, buffers and children it shares."""

    def __init__(self, original: nn.Module, sparse: SparseFFN) -> None:
        super().__init__()
        self._parameters = original._parameters
        self._buffers = original._buffers
        self._modules = original._modules
        self.training = original.training
        # Held in a tuple: a module held directly would become a child and enter the state dict.
        self._original = (original,)
        self._sparse = (sparse,)

    @property
    def active(self) -> bool:
        """Sparse only while switched on and training: evaluation is always dense."""
        sparse = self._sparse[0]
        if sparse.state.enabled and getattr(self, "_is_replica", False):
            raise UserError(
                "model: sparse blocks cannot run under nn.DataParallel, whose replicas share them; "
                "start one process a device with torchrun (DistributedDataParallel)"
            )
        return sparse.training and sparse.state.enabled

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._original[0].training = mode
        return self


class PassThrough(StandIn):
    """For lin1 and the activation: their input, unchanged, while sparse."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.active:
            return hidden_states
        output: Tensor = self._original[0](hidden_states)
        return output


class SparseOutput(StandIn):
    """For lin2, or the block as a module: the whole block from the block's input, while sparse.

    Its mode is the block's: the stand-ins of one block are never of two minds.
    """

    def __init__(self, original: nn.Module, sparse: SparseFFN) -> None:
        super().__init__(original, sparse)
        sparse.training = self.training

    def train(self, mode: bool = True) -> Self:
        self._sparse[0].training = mode
        return super().train(mode)

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.active:
            return self._sparse[0].forward(hidden_states)
        output: Tensor = self._original[0](hidden_states)
        return output


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


class SparsityHandle:
    """What `sparsify` returns: the switch, the report and the way back."""

    def __init__(
        self,
        model: nn.Module,
        blocks: list[FFNBlock],
        sparse: dict[str, SparseFFN],
        state: SparsityState,
        config: SparsityConfig,
    ) -> None:
        self._acceleration = accelerate(model)
        self._blocks = blocks
        self._sparse = sparse
        self.state = state
        self.config = config
        self._removed = False
        self._swapped: list[tuple[nn.Module, str, nn.Module]] = []
        for ffn in sparse.values():
            self._swap_in(ffn)
        self._hook = get_backbone(model).register_forward_pre_hook(
            NoteBatch(self.state), with_kwargs=True
        )

    @property
    def sparse_blocks(self) -> Mapping[str, SparseFFN]:
        """`layer.N` → its block, for the layers that are sparse at all."""
        return self._sparse

    @property
    def enabled(self) -> bool:
        """Whether training steps are sparse now."""
        return self.state.enabled

    def enable(self) -> None:
        """Training steps are sparse from now on, at the full sparsity."""
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
        self._set_share(share)
        return share

    def _set_share(self, share: float) -> None:
        if self._removed:
            raise RuntimeError("this model was taken back by remove(); call sparsify() again")
        self.state.switch(share)

    def disable(self) -> None:
        """Training steps are dense from now on."""
        self.state.switch(0.0)

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Dense inside, as before outside, whatever happens in between."""
        before = self.state.enabled, self.state.share
        self.state.enabled = False
        try:
            yield
        finally:
            self.state.enabled, self.state.share = before

    def report(self) -> list[LayerReport]:
        """A row a layer, dense ones too, in order."""
        rows = []
        for block in self._blocks:
            ffn = self._sparse.get(block.name)
            kept = ffn.kept if ffn else block.intermediate_size
            rows.append(
                LayerReport(
                    name=block.name,
                    intermediate_size=block.intermediate_size,
                    kept=kept,
                    sparsity=1.0 - kept / block.intermediate_size,
                    realised_sparsity=ffn.realised_sparsity if ffn else 0.0,
                )
            )
        return rows

    def state_dict(self) -> dict[str, Any]:
        """What steps leave behind beside weights: choices that are kept, counts, generators."""
        layers = {name: ffn.state_dict() for name, ffn in self._sparse.items()}
        return {"forward_count": self.state.forward_count, "layers": layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, on a model made sparse with the same config."""
        self.state.forward_count = state["forward_count"]
        for name, ffn in self._sparse.items():
            ffn.load_state_dict(state["layers"][name])

    def remove(self) -> None:
        """Put the original modules back: the same objects, the same memory layout."""
        if self._removed:
            return
        self.disable()
        self._hook.remove()
        for layer, path, original in self._swapped:
            layer.set_submodule(path, original)
        for ffn in self._sparse.values():
            for weight in ffn.block.scattered():
                weight.data = weight.data.contiguous()
        self._acceleration.remove()
        self._removed = True

    def _swap_in(self, ffn: SparseFFN) -> None:
        block, row = ffn.block, ffn.block.architecture
        # The columns of lin2 become rows in memory, so that all gathers read whole rows. The
        # parameter keeps its shape (d, f) and its values; only the strides change.
        for weight in block.scattered():
            weight.data = weight.data.t().contiguous().t()
        if row.whole is not None:
            sites: dict[str, type[StandIn]] = {row.whole: SparseOutput}
        else:
            sites = {row.lin1: PassThrough, row.activation: PassThrough, row.lin2: SparseOutput}
        for path, kind in sites.items():
            original = block.layer.get_submodule(path)
            self._swapped.append((block.layer, path, original))
            block.layer.set_submodule(path, kind(original, ffn))


def sparsify(
    model: nn.Module,
    config: SparsityConfig,
    calibration: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | Calibration | None = None,
) -> SparsityHandle:
    """Make the FFN blocks of `model` sparse in training steps; starts switched on.

    Evaluation (`model.eval()`) is dense at all times. The FFN of a layer of sparsity 0 is left untouched.
    What surrounds the FFN is taken over by `accelerate`, dense steps included, until `remove()`.

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
    hooks = get_backbone(model)._forward_pre_hooks.values()
    if any(isinstance(hook, NoteBatch) for hook in hooks):
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
    moments = _moments(model, config, calibration)
    state = SparsityState()
    sparse = {}
    for block, sparsity in zip(blocks, sparsities, strict=True):
        kept = kept_channels(sparsity, block.intermediate_size)
        if kept < block.intermediate_size:
            sparse[block.name] = SparseFFN(block, config, kept, state, moments.get(block.name))
    handle = SparsityHandle(model, blocks, sparse, state, config)
    handle.enable()
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
        return calibrate(model, calibration)
    if isinstance(next(iter(calibration.values())), LayerMoments):
        for block in find_blocks(model):
            moments: Any = calibration.get(block.name)
            shape = (block.hidden_size, block.intermediate_size)
            if moments is None or tuple(moments.cross.shape) != shape:
                raise UserError(f"calibration: is another model's; {block.name} is {shape} here")
        return calibration  # type: ignore[return-value]
    return calibrate(model, [calibration])  # type: ignore[list-item]
