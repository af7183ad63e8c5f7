"""Fine-tune with sparse LoRA: run it, measure it, search its settings.

Importing this package loads nothing heavy; each public name loads its module when first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ARCHITECTURES": "sparselora.sparse.backbone.architectures",
    "Architecture": "sparselora.sparse.backbone.architecture",
    "FFNEstimator": "sparselora.sparse.channels.ffn_estimators",
    "SVDSparsityEstimator": "sparselora.sparse.channels.lowrank",
    "accelerate": "sparselora.sparse.accelerate",
    "SparsityCallback": "sparselora.sparse.callback",
    "SparsityConfig": "sparselora.sparse.config",
    "SparsityHandle": "sparselora.sparse.patch",
    "UserError": "sparselora.errors",
    "calibrate": "sparselora.sparse.channels.calibration",
    "build_ffn_estimators": "sparselora.sparse.channels.ffn_estimators",
    "fine_tune": "sparselora.cli.call",
    "get_layer_sparsity_ratio": "sparselora.sparse.schedule",
    "load_records": "sparselora.report.loading.load",
    "load_study": "sparselora.report.loading.study",
    "register_architecture": "sparselora.sparse.backbone.architectures",
    "register_configs": "sparselora.plugins",
    "register_dataset": "sparselora.data.sources",
    "register_estimator": "sparselora.sparse.estimators",
    "select_ffn_channels": "sparselora.sparse.channels.selector",
    "sparsify": "sparselora.sparse.patch",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'sparselora' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
