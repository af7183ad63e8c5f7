"""Join the groups and the flat keys at the root to the typed schema of a run, and tell Hydra of it."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from sparselora.config.effects import all_tokens, dense_attention
from sparselora.config.groups import (
    BenchConfig,
    CalibrationConfig,
    CompensationConfig,
    DataConfig,
    EstimatorConfig,
    LoraSettings,
    MeasureConfig,
    ModelConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
)
from sparselora.config.ranges import setting
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.phases import Phases


@dataclass
class RunConfig:
    """Hold every setting of a run; what those at the root are, `SparsityConfig` says."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = setting(ScheduleConfig, sparse_only=True)
    estimator: EstimatorConfig = setting(EstimatorConfig, sparse_only=True)
    compensation: CompensationConfig = setting(CompensationConfig, sparse_only=True)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    """Of `python -m sparselora.bench` alone."""
    svd_rank: int | None = setting(None, sparse_only=True)
    ffn_sparsity: float = MISSING
    layer_sparsity: dict[str, float] = field(default_factory=dict)
    qk_sparsity: float = 0.0
    vo_sparsity: float = 0.0
    layer_qk_sparsity: dict[str, float] = field(default_factory=dict)
    layer_vo_sparsity: dict[str, float] = field(default_factory=dict)
    attention_scope: str = setting("per_head", idle=(dense_attention,))
    tokens: str = setting("all", sparse_only=True)
    sink_tokens: int = setting(0, idle=(all_tokens,), sparse_only=True)
    sparse_warmup_ratio: float = setting(sparse_only=True)
    sparse_rampup_ratio: float = setting(0.0, sparse_only=True)
    sparse_cooldown_ratio: float = setting(0.0, sparse_only=True)
    seed: int = MISSING
    seeds: list[int] | None = None
    """A run for each, as one trial, in place of `seed`; see `sparselora.runs.repeats`."""
    tags: list[str] = field(default_factory=list)
    """Free words that the record keeps."""

    @property
    def sparsity(self) -> SparsityConfig:
        """Return the part that the sparse core takes."""
        return SparsityConfig(
            ffn_sparsity=self.ffn_sparsity,
            layer_sparsity=dict(self.layer_sparsity),
            rule=self.schedule.rule,
            svd_rank=self.svd_rank,
            estimator=self.estimator.name,
            estimator_tokens=self.estimator.tokens,
            estimator_weighted=self.estimator.weighted,
            estimator_every=self.estimator.every,
            compensation=self.compensation.name,
            compensation_rank=self.compensation.rank,
            qk_sparsity=self.qk_sparsity,
            vo_sparsity=self.vo_sparsity,
            layer_qk_sparsity=dict(self.layer_qk_sparsity),
            layer_vo_sparsity=dict(self.layer_vo_sparsity),
            attention_scope=self.attention_scope,
            tokens=self.tokens,
            sink_tokens=self.sink_tokens,
            sparse_warmup_ratio=self.sparse_warmup_ratio,
            sparse_rampup_ratio=self.sparse_rampup_ratio,
            sparse_cooldown_ratio=self.sparse_cooldown_ratio,
            seed=self.seed,
        )

    def phases(self, total_steps: int) -> Phases:
        """Return which steps of a run that is not plain LoRA are dense."""
        return self.sparsity.phases(total_steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, enums by name: what records hold."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=lambda item: item.name))
        return plain


def register_schema() -> None:
    """Make the schema known to Hydra, as `schema` in the defaults list of `conf/config.yaml`."""
    node = OmegaConf.structured(RunConfig)
    # The keys of these are the user's own, so that `layer_sparsity={layer.0: 0.4}` needs no `+`.
    layers = (node.layer_sparsity, node.layer_qk_sparsity, node.layer_vo_sparsity)
    for free in (*layers, node.model.init_config):
        OmegaConf.set_struct(free, False)
    ConfigStore.instance().store(name="schema", node=node, provider="sparselora", replace=True)
