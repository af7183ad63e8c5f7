"""Hold the settings of a run, a dataclass a config group: units, ranges and effects beside each field."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from sparselora.config import effects
from sparselora.config.ranges import (
    at_least,
    device,
    one_of,
    path,
    positive,
    setting,
    share,
    some_of,
)
from sparselora.sparse.named_settings import UNSAID

TASKS = ("classification", "causal_lm")
QUOTINGS = ("auto", "csv", "none")
PROJECTIONS = ("query", "key", "value", "output")
FEWEST_TOKENS = 4
"""Special tokens and a word each of a pair."""
_TEMPLATES = (effects.no_prompts, effects.names_chats)


class Precision(Enum):
    """Name the numbers of a run; `bf16`: frozen weights in it, trained ones not, under autocast."""

    fp32 = "fp32"
    bf16 = "bf16"


class Quantization(Enum):
    """Say how frozen linear layers are held; `nf4`: in 4 bits, as in QLoRA, by bitsandbytes."""

    none = "none"
    nf4 = "nf4"


class KeepCheckpoints(Enum):
    """Say which adapters are kept; `auto`: best and last of a run, the best of each in a sweep."""

    auto = "auto"
    all = "all"
    best = "best"
    none = "none"


class Timing(Enum):
    """Say whether and when a run is timed; `both` is before and after training."""

    none = "none"
    after = "after"
    both = "both"


@dataclass
class TaskConfig:
    """Say what the model is fine-tuned to do."""

    name: str = setting(check=one_of(TASKS))
    """classification: a head on the sentence; causal_lm: a decoder completes a prompt."""
    chat_template: bool = setting(True, idle=(effects.no_prompts,))
    """Of causal_lm: whether a prompt is put into the tokenizer's chat template, where it has one."""


@dataclass
class ModelConfig:
    """Say which backbone is fine-tuned, and where its files are."""

    name: str = MISSING
    """Short, for tables."""
    name_or_path: str = setting(check=path)
    """A hub name, a local folder, or `asset:NAME`; with `random_init`, what gives the tokenizer."""
    revision: str | None = setting(None, idle=(effects.local_model,))
    """Hub revision: a branch, tag or commit."""
    random_init: bool = False
    """Random weights of the architecture in `init_config`: for speed only."""
    init_config: dict[str, Any] = setting({}, idle=(effects.trained_weights,))
    """With `random_init`: `model_type` and whatever differs from that architecture's defaults."""
    trust_remote_code: bool = False
    gguf_file: str | None = setting(None, path)
    """A file in llama.cpp's format in that folder or repository, in place of transformers' own files."""
    quantization: Quantization = Quantization.none
    """none, or nf4: QLoRA, with the scales quantized too."""


@dataclass
class DataConfig:
    """Say where examples are, what of them is read, and how they are split."""

    name: str = MISSING
    path: str = setting(check=path)
    """`asset:NAME`, `dataset:NAME`, a CSV, TSV, JSON, JSONL or Parquet file, a folder in the hub's
    format, a hub name."""
    config_name: str | None = setting(None, idle=(effects.not_of_the_hub,))
    """The hub's name for a part of a data set, such as sst2 of glue."""
    revision: str | None = setting(None, idle=(effects.not_of_the_hub,))
    text_column: str = setting("text", idle=(effects.takes_templates,))
    pair_column: str | None = setting(None, idle=(effects.takes_templates,))
    label_column: str = setting("label", idle=(effects.looks_at_no_label,))
    group_column: str | None = None
    """Rows of one group stay in one split; null: equal texts do."""
    quoting: str = setting("auto", one_of(QUOTINGS), idle=(effects.no_delimiters,))
    """Of CSV and TSV: csv (a field may stand in quotes), none (a quote is a character), or auto."""
    labels: list[Any] | None = None
    """The labels to keep, in the order of their indices; null: all that occur, sorted."""
    missing_label: Any = setting(None, idle=(effects.looks_at_no_label,))
    """A label that stands for none, such as -1: its rows are left out."""
    drop_duplicates: bool = False
    train_split: str = setting("train", idle=(effects.not_of_the_hub,))
    validation_split: str | None = setting(None, idle=(effects.not_of_the_hub,))
    """null: cut off the training split by a hash of the group."""
    test_split: str | None = setting(None, idle=(effects.not_of_the_hub,))
    validation_fraction: float = setting(0.15, share)
    test_fraction: float = setting(0.15, share)
    max_length: int = setting(128, at_least(FEWEST_TOKENS))
    """Tokens; longer texts are cut."""
    prompt_template: str | None = setting(None, idle=_TEMPLATES)
    """Of causal_lm: what the model is given, columns of the data in braces."""
    completion_template: str | None = setting(None, idle=_TEMPLATES)
    """Of causal_lm: what it should answer; the end-of-text token is added."""
    messages_column: str | None = setting(None, idle=(effects.no_prompts,))
    """Of causal_lm: chats, lists of role and content; null: `messages`, where there are no templates."""


@dataclass
class ScheduleConfig:
    """Say how sparsity is spread over the layers."""

    name: str = MISSING
    rule: str = MISSING
    """uniform, ramp, calibrated, or explicit (every layer named in `layer_sparsity`)."""


@dataclass
class EstimatorConfig:
    """Say what scores the channels, and how often."""

    name: str = MISSING
    tokens: int | None = setting(
        UNSAID["estimator_tokens"], at_least(1), idle=(effects.looks_at_no_token,), sparse_only=True
    )
    """Tokens of a batch that are scored, first and last ones in strata of their own; null: all."""
    weighted: bool = setting(
        UNSAID["estimator_weighted"], idle=(effects.scores_no_batch,), sparse_only=True
    )
    """Whether scores are multiplied by the norms of lin2's columns."""
    every: int = setting(UNSAID["estimator_every"], idle=(effects.chooses_once,), sparse_only=True)
    """Forward passes from one choice of channels to the next."""


@dataclass
class CompensationConfig:
    """Say what takes the place of the channels left out."""

    name: str = MISSING
    """none, mean, lowrank."""
    rank: int = setting(UNSAID["compensation_rank"], idle=(effects.no_rank,), sparse_only=True)
    """Of the map that `lowrank` fits."""


@dataclass
class CalibrationConfig:
    """Say how much is measured before training."""

    batches: int = setting(16, at_least(1), idle=(effects.nothing_fitted,), sparse_only=True)
    """Training batches that estimators and compensation are fitted on, where they need any."""


@dataclass
class LoraSettings:
    """Say how large the adapter is, and what carries one."""

    r: int = setting(8, at_least(1))
    alpha: int = setting(16, positive)
    dropout: float = setting(0.05, share)
    projections: list[str] = setting(list(PROJECTIONS), some_of(PROJECTIONS))
    """Which attention projections carry an adapter: query, key, value, output."""


@dataclass
class TrainConfig:
    """Say how the adapter is trained, on what, and what is kept of it."""

    batch_size: int = setting(32, at_least(1))
    """Examples of one forward pass."""
    gradient_accumulation_steps: int = setting(1, at_least(1))
    """Forward passes of one optimizer step."""
    max_steps: int | None = setting(312, at_least(1))
    """Optimizer steps."""
    epochs: float | None = setting(None, positive)
    """Passes over the training split, in place of `max_steps`."""
    learning_rate: float = setting(1e-3, positive)
    weight_decay: float = setting(0.01, at_least(0))
    lr_warmup_ratio: float = setting(0.06, share)
    """Share of the steps in which the learning rate rises from 0."""
    max_grad_norm: float = setting(1.0, positive)
    precision: Precision = Precision.fp32
    device: str = setting("auto", device)
    """auto, cpu, cuda, cuda:N."""
    threads: int | None = setting(None, at_least(1))
    """CPU threads of torch; null: torch's own choice."""
    keep_checkpoints: KeepCheckpoints = KeepCheckpoints.auto
    checkpoint_every: int | None = setting(None, at_least(1))
    """Optimizer steps from one state on disk to the next, from which a stopped run can go on."""
    resume: str | None = setting(None, path)
    """Folder of a run that was stopped: this one goes on from its last such state."""


@dataclass
class MeasureConfig:
    """Say when a run is evaluated, and how it is timed."""

    eval_every: int | None = setting(104, at_least(1), idle=(effects.evaluated_too_rarely,))
    """Optimizer steps between evaluations on the validation split; null: only at the end."""
    eval_batch_size: int = setting(128, at_least(1))
    eval_rows: int | None = setting(None, at_least(1))
    """Validation rows that evaluations look at: a fixed sample; null: all of them."""
    eval_first: bool = False
    """Evaluate before the first step too."""
    test: bool = False
    """Evaluate the best adapter on the test split too."""
    timing: Timing = Timing.after
    """When the run's setting is timed against stock PEFT LoRA, interleaved, on copies."""
    min_rounds: int = setting(8, at_least(2), idle=(effects.not_timed,))
    """Of interleaved timing; a round is two steps of stock, one of our dense path and two of ours."""
    max_rounds: int = setting(400, at_least(2), idle=(effects.not_timed,))
    seconds: float = setting(30.0, positive, idle=(effects.not_timed,))
    """Time after which no further round begins."""
    interval_width: float = setting(0.03, positive, idle=(effects.not_timed,))
    """Timing stops early when the 95 % intervals of the speed-up and of the control, stock against
    itself, are this narrow, relative to them."""
    batches: int = setting(16, at_least(1), idle=(effects.not_timed,))
    """Real batches that the rounds take in turn."""


@dataclass
class BenchConfig:
    """Say what a bench times in place of the run's own batches."""

    batch_size: int | None = setting(None, at_least(1))
    """Examples of a forward pass; null: `train.batch_size`."""
    seq_len: int | None = setting(None, at_least(FEWEST_TOKENS))
    """Tokens of every example, drawn at random, none of them padding; null: the data's own batches."""
