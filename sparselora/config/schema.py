"""The typed schema of a run: one dataclass a config group, and the flat keys at the root."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.named_settings import UNSAID
from sparselora.sparse.phases import Phases

OUTCOME_FREE_TRAIN_KEYS = ("checkpoint_every", "resume")
"""Keys of `train` that do not change what a run comes to."""
LATER_KEYS: tuple[str, ...] = ("data.quoting", "data.missing_label", "data.messages_column")
"""Dotted keys that came after runs were recorded: at their default they are no part of the hash."""
TASKS = ("classification", "causal_lm")
QUOTINGS = ("auto", "csv", "none")
PROJECTIONS = ("query", "key", "value", "output")


class Precision(Enum):
    """`bf16` keeps frozen weights in bfloat16, trained ones in float32, and computes under autocast."""

    fp32 = "fp32"
    bf16 = "bf16"


class Quantization(Enum):
    """`nf4` holds the backbone's linear maps in 4 bits, as QLoRA does; needs bitsandbytes."""

    none = "none"
    nf4 = "nf4"


class KeepCheckpoints(Enum):
    """`auto`: best and last of a single run, the best of each run of a sweep."""

    auto = "auto"
    all = "all"
    best = "best"
    none = "none"


class Timing(Enum):
    """Whether and when a run is timed; `both` is before and after training."""

    none = "none"
    after = "after"
    both = "both"


@dataclass
class TaskConfig:
    name: str = MISSING
    """classification: a head on the sentence; causal_lm: a decoder completes a prompt."""
    chat_template: bool = True
    """Of causal_lm: whether a prompt is put into the tokenizer's chat template, where it has one."""


@dataclass
class ModelConfig:
    name: str = MISSING
    """Short, for tables."""
    name_or_path: str = MISSING
    """A hub name, a local folder, or `asset:NAME`; with `random_init`, what gives the tokenizer."""
    revision: str | None = None
    """Hub revision: a branch, tag or commit."""
    random_init: bool = False
    """Random weights of the architecture in `init_config`: for speed only."""
    init_config: dict[str, Any] = field(default_factory=dict)
    """With `random_init`: `model_type` and whatever differs from that architecture's defaults."""
    trust_remote_code: bool = False
    gguf_file: str | None = None
    """A file in llama.cpp's format in that folder or repository, in place of transformers' own files."""
    quantization: Quantization = Quantization.none
    """none, or nf4: QLoRA, with the scales quantized too."""


@dataclass
class DataConfig:
    name: str = MISSING
    path: str = MISSING
    """`asset:NAME`, a CSV, TSV, JSON, JSONL or Parquet file, a folder in the hub's format, a hub name."""
    config_name: str | None = None
    """The hub's name for a part of a data set, such as sst2 of glue."""
    revision: str | None = None
    text_column: str = "text"
    pair_column: str | None = None
    label_column: str = "label"
    group_column: str | None = None
    """Rows of one group stay in one split; null: equal texts do."""
    quoting: str = "auto"
    """Of CSV and TSV: csv (a field may stand in quotes), none (a quote is a character), or auto."""
    labels: list[Any] | None = None
    """The labels to keep, in the order of their indices; null: all that occur, sorted."""
    missing_label: Any = None
    """A label that stands for none, such as -1: its rows are left out."""
    drop_duplicates: bool = False
    train_split: str = "train"
    validation_split: str | None = None
    """null: cut off the training split by a hash of the group."""
    test_split: str | None = None
    validation_fraction: float = 0.15
    test_fraction: float = 0.15
    max_length: int = 128
    """Tokens; longer texts are cut."""
    prompt_template: str | None = None
    """Of causal_lm: what the model is given, columns of the data in braces."""
    completion_template: str | None = None
    """Of causal_lm: what it should answer; the end-of-text token is added."""
    messages_column: str | None = None
    """Of causal_lm: chats, lists of role and content; null: `messages`, where there are no templates."""


@dataclass
class ScheduleConfig:
    name: str = MISSING
    rule: str = MISSING
    """uniform, ramp, calibrated, or explicit (every layer named in `layer_sparsity`)."""


@dataclass
class EstimatorConfig:
    name: str = MISSING
    tokens: int | None = UNSAID["estimator_tokens"]
    """Tokens of a batch that are scored, first and last ones in strata of their own; null: all."""
    weighted: bool = UNSAID["estimator_weighted"]
    """Whether scores are multiplied by the norms of lin2's columns."""
    every: int = UNSAID["estimator_every"]
    """Forward passes from one choice of channels to the next."""


@dataclass
class CompensationConfig:
    name: str = MISSING
    """none, mean, lowrank."""
    rank: int = UNSAID["compensation_rank"]
    """Of the map that `lowrank` fits."""


@dataclass
class CalibrationConfig:
    batches: int = 16
    """Training batches that estimators and compensation are fitted on, where they need any."""


@dataclass
class LoraSettings:
    r: int = 8
    alpha: int = 16
    dropout: float = 0.05
    projections: list[str] = field(default_factory=lambda: list(PROJECTIONS))
    """Which attention projections carry an adapter: query, key, value, output."""


@dataclass
class TrainConfig:
    batch_size: int = 32
    """Examples of one forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes of one optimizer step."""
    max_steps: int | None = 312
    """Optimizer steps."""
    epochs: float | None = None
    """Passes over the training split, in place of `max_steps`."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    lr_warmup_ratio: float = 0.06
    """Share of the steps in which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    precision: Precision = Precision.fp32
    device: str = "auto"
    """auto, cpu, cuda, cuda:N."""
    threads: int | None = None
    """CPU threads of torch; null: torch's own choice."""
    keep_checkpoints: KeepCheckpoints = KeepCheckpoints.auto
    checkpoint_every: int | None = None
    """Optimizer steps from one state on disk to the next, from which a stopped run can go on."""
    resume: str | None = None
    """Folder of a run that was stopped: this one goes on from its last such state."""


@dataclass
class MeasureConfig:
    eval_every: int | None = 104
    """Optimizer steps between evaluations on the validation split; null: only at the end."""
    eval_batch_size: int = 128
    eval_rows: int | None = None
    """Validation rows that evaluations look at: a fixed sample; null: all of them."""
    eval_first: bool = False
    """Evaluate before the first step too."""
    test: bool = False
    """Evaluate the best adapter on the test split too."""
    timing: Timing = Timing.after
    """When the run's setting is timed against stock PEFT LoRA, interleaved, on copies."""
    min_rounds: int = 8
    """Of interleaved timing; a round is two steps of stock, one of our dense path and two of ours."""
    max_rounds: int = 400
    seconds: float = 30.0
    """Time after which no further round begins."""
    interval_width: float = 0.03
    """Timing stops early when the 95 % intervals of the speed-up and of the control, stock against
    itself, are this narrow, relative to them."""
    batches: int = 16
    """Real batches that the rounds take in turn."""


@dataclass
class BenchConfig:
    batch_size: int | None = None
    """Examples of a forward pass; null: `train.batch_size`."""
    seq_len: int | None = None
    """Tokens of every example, drawn at random, none of them padding; null: the data's own batches."""


@dataclass
class RunConfig:
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    compensation: CompensationConfig = field(default_factory=CompensationConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    """Of `python -m sparselora.bench` alone."""
    svd_rank: int | None = None
    ffn_sparsity: float = MISSING
    layer_sparsity: dict[str, float] = field(default_factory=dict)
    qk_sparsity: float = 0.0
    vo_sparsity: float = 0.0
    layer_qk_sparsity: dict[str, float] = field(default_factory=dict)
    layer_vo_sparsity: dict[str, float] = field(default_factory=dict)
    attention_scope: str = "per_head"
    tokens: str = "all"
    sink_tokens: int = 0
    sparse_warmup_ratio: float = MISSING
    sparse_rampup_ratio: float = 0.0
    sparse_cooldown_ratio: float = 0.0
    seed: int = MISSING
    seeds: list[int] | None = None
    """A run for each, as one trial, in place of `seed`; see `sparselora.runs.repeats`."""
    tags: list[str] = field(default_factory=list)
    """Free words that the record keeps."""

    @property
    def sparsity(self) -> SparsityConfig:
        """The part that the sparse core takes."""
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
        """Which steps of a run that is not plain LoRA are dense."""
        return self.sparsity.phases(total_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, enums by name: what records hold."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=lambda item: item.name))
        return plain

    def content_hash(self) -> str:
        """SHA-256 of everything that decides the run's outcome; tags do not."""
        aside = ("tags", "bench")
        content = {key: value for key, value in self.to_dict().items() if key not in aside}
        for key in OUTCOME_FREE_TRAIN_KEYS:
            del content["train"][key]
        defaults = RunConfig().to_dict()
        for key in LATER_KEYS:
            *groups, name = key.split(".")
            section, default = content, defaults
            for group in groups:
                section, default = section[group], default[group]
            if section[name] == default[name]:
                del section[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def register_schema() -> None:
    """Make the schema known to Hydra, as `schema` in the defaults list of `conf/config.yaml`."""
    node = OmegaConf.structured(RunConfig)
    # The keys of these are the user's own, so that `layer_sparsity={layer.0: 0.4}` needs no `+`.
    layers = (node.layer_sparsity, node.layer_qk_sparsity, node.layer_vo_sparsity)
    for free in (*layers, node.model.init_config):
        OmegaConf.set_struct(free, False)
    ConfigStore.instance().store(name="schema", node=node, provider="sparselora", replace=True)
