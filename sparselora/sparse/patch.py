"""Make a model sparse while it trains: check it, build its sparse blocks, hand them to a handle."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sparselora.errors import UserError
from sparselora.sparse.backbone.attention import find_attention
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.blocks.attention import SparseAttention
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.call_hooks import state_of
from sparselora.sparse.channels.moments import Calibration, LayerMoments
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.handle import LayerReport, SparsityHandle
from sparselora.sparse.schedule import kept_channels, layer_sparsities
from sparselora.sparse.validate import PHASE_KEYS

__all__ = ["LayerReport", "SparsityHandle", "sparsify"]


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
