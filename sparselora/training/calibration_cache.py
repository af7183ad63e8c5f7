"""Keep calibration on disk, so that the runs of a sweep over one model and one data set share it."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparselora import __version__
from sparselora.paths import cache_folder
from sparselora.records.files import write_atomically
from sparselora.sparse.allocation import LEVELS
from sparselora.sparse.backbone.lookup import get_backbone
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.moments import Calibration, from_tensors, to_tensors
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.sensitivity import calibrated_sparsities, error_curves, with_layers

LARGEST_BYTES = 256 * 2**20
"""Larger ones are made anew each time."""
KEPT_FILES = 20
FORMAT = 2
"""Raised whenever the same weights and batches come to give something else."""
CURVE_BATCHES = 2
"""Of the calibration batches, those that error curves are measured on: tens of passes over each."""


@dataclass(frozen=True)
class Fitted:
    """Hold what calibration made of a run's settings."""

    config: SparsityConfig
    """With every layer named where the schedule is `calibrated`."""
    sparsities: list[float]
    """Asked of each layer."""
    calibration: Calibration | None = None
    curves: list[list[float]] | None = None
    """Of `error_curves`, where the schedule is `calibrated`."""
    seconds: float = 0.0
    """That the making took: those of the first time where it comes from the cache, so that a run's
    cost does not depend on what ran before."""


def fit(
    model: nn.Module,
    config: SparsityConfig,
    sparsities: Sequence[float],
    batches: Callable[[], Sequence[Mapping[str, Tensor]]],
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Fitted:
    """Measure on the model what a run's sparsity needs, or find it in the cache.

    Args:
        model: not sparse yet.
        config: the run's.
        sparsities: asked of each layer, as far as they are known without measuring.
        batches: gives the calibration batches; called only where some are needed.
        context: makes the context that a forward pass runs in, such as autocast.
    """
    sparse = any(sparsities) or config.sparsifies_attention
    if not config.needs_calibration or not sparse:
        return Fitted(config, list(sparsities))
    calibrating = batches()
    device = next(model.parameters()).device
    tensors, seconds = _kept(
        _content_hash(model, calibrating, repr((config.tokens, config.sink_tokens))),
        lambda: to_tensors(
            calibrate(model, calibrating, context, config.tokens, config.sink_tokens)
        ),
    )
    calibration = from_tensors(tensors, device)
    if config.rule != "calibrated":
        return Fitted(config, list(sparsities), calibration, seconds=seconds)
    probing = calibrating[:CURVE_BATCHES]
    # What the curves depend on: not the sparsities, and not which steps are dense.
    setting = replace(
        config.of_ffn_alone(),
        ffn_sparsity=0.5,
        layer_sparsity={},
        rule="uniform",
        sparse_warmup_ratio=0.0,
        sparse_rampup_ratio=0.0,
        sparse_cooldown_ratio=0.0,
    )

    def measured() -> dict[str, Tensor]:
        errors = error_curves(model, config, calibration, probing, context=context)
        return {"curves": torch.tensor(errors)}

    of = (asdict(setting), config.tokens, config.sink_tokens, LEVELS, CURVE_BATCHES)
    key = _content_hash(model, calibrating, repr(of))
    tensors, more = _kept(key, measured)
    curves: list[list[float]] = tensors["curves"].tolist()
    named = calibrated_sparsities(config, curves)
    return Fitted(with_layers(config, named), named, calibration, curves, seconds + more)


def _kept(key: str, make: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    path = cache_folder() / "calibration" / f"{key}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            seconds = float(file.metadata()["seconds"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        path.touch()
        return tensors, seconds
    except (OSError, SafetensorError):
        pass  # none yet, or one that a failing disk left incomplete
    began = perf_counter()
    tensors = make()
    seconds = perf_counter() - began
    if sum(tensor.nbytes for tensor in tensors.values()) <= LARGEST_BYTES:
        # A cache that cannot be written, or that another process prunes too, costs time and no run.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"seconds": str(seconds)}
            write_atomically(
                path, lambda temporary: safetensors.torch.save_file(tensors, temporary, metadata)
            )
            _prune(path.parent)
    return tensors, seconds


def _content_hash(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], setting: str = ""
) -> str:
    backbone: Any = get_backbone(model)
    made_by = (FORMAT, __version__, torch.__version__, transformers.__version__)
    # The seconds that it took are kept too, and are this device's, by so many threads.
    on = (next(model.parameters()).device.type, torch.get_num_threads())
    digest = hashlib.sha256(repr((setting, made_by, on)).encode())
    config = backbone.config.to_dict()
    # A forward pass with labels fills in the one, and the other is a folder, not what it holds.
    for name in ("problem_type", "_name_or_path"):
        config.pop(name, None)
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    tensors = [*model.state_dict().items(), *(item for batch in batches for item in batch.items())]
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()[:32]


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in files[:-KEPT_FILES]:
        path.unlink(missing_ok=True)
