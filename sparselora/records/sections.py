"""Describe what stands in a run's record: a dataclass for each section.

Fields stand in the order of the file. Every figure may be None: one that is not finite is no figure.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from sparselora.records.costs import Flops, StepTimes, Timing
from sparselora.records.typed import Section


@dataclass(kw_only=True)
class Git(Section):
    """Name the code that ran; None where it was installed, not checked out."""

    commit: str | None
    dirty: bool | None


@dataclass(kw_only=True)
class Provenance(Section):
    """Say where a run happened: code, versions, machine and process."""

    git: Git | None
    versions: dict[str, str | None] | None
    device: str | None
    device_type: str | None
    cuda: dict[str, Any] | None
    threads: int | None
    omp_wait_policy: str | None
    gomp_spincount: str | None
    platform: str | None
    load_average: list[float] | None
    host: str | None
    boot_id: str | None
    pid: int | None
    process_start: float | None
    """Seconds since 1970."""


@dataclass(kw_only=True)
class ModelNotes(Section):
    """Say what was found out while tokenizer and model were loaded."""

    padding: dict[str, Any] | None = None
    unknown_share: float | None
    """Of the training texts' tokens, 0 to 1; None where the tokenizer has no unknown token."""
    made_new: dict[str, list[str]] | None = None
    """Weights that no file gave: `trained` and `frozen`."""
    notes: list[str] | None = None
    """What a user should know of it, a sentence each."""


@dataclass(kw_only=True)
class DataSummary(Section):
    """Describe the examples that a run was given."""

    rows: dict[str, int]
    """By split; likewise the next."""
    groups: dict[str, int] | None
    dropped_rows: int | None
    dropped: dict[str, int] | None
    """Why rows were left out, and how many."""
    notes: list[str] | None
    label_map: dict[str, str] | None
    majority_share: float | None
    """Accuracy of always answering with the commonest label or completion."""
    cut_completions: dict[str, int] | None
    mean_tokens: float | None


@dataclass(kw_only=True)
class CalibratedSchedule(Section):
    """Hold what `schedule=calibrated` measured and chose."""

    levels: list[float]
    errors: list[list[float]]
    """Relative squared error of the model's output: a list a layer, of one value a level."""
    sparsities: list[float]


@dataclass(kw_only=True)
class Resumed(Section):
    """Name the stopped run that this one went on from."""

    folder: str
    step: int


@dataclass(kw_only=True)
class Steps(Section):
    """Count optimizer steps."""

    planned: int
    planned_dense: int
    dense: int
    sparse: int


@dataclass(kw_only=True)
class Tokens(Section):
    """Count the tokens that were trained on, without and with padding."""

    real: int
    padded: int


@dataclass(kw_only=True)
class Scores(Section):
    """Hold the metrics of one evaluation."""

    step: int | None
    sparse_steps: float | None = None
    """Sparse steps so far, those on the way up by their share; not of the test split."""
    accuracy: float
    f1: float | None = None
    """Of a classifier."""
    loss: float | None
    """In nats: an example, or a completion token."""


@dataclass(kw_only=True)
class Metrics(Section):
    """Hold the evaluations that count: the last, the best, and that of the test split."""

    validation: Scores | None
    best_validation: Scores | None
    test: Scores | None


@dataclass(kw_only=True)
class Parameters(Section):
    """Count parameters."""

    trained: int
    total: int


@dataclass(kw_only=True)
class LayerSparsity(Section):
    """Say what one layer was asked for and what it did."""

    name: str
    intermediate_size: int
    kept: int
    sparsity: float | None
    realised_sparsity: float | None
    qk_sparsity: float | None = None
    vo_sparsity: float | None = None


@dataclass(kw_only=True)
class Sparsity(Section):
    """Hold shares of FFN channels left out: means over layers, and by layer."""

    mean: float | None
    realised_mean: float | None
    layers: list[LayerSparsity]


@dataclass(kw_only=True)
class RunContent(Section):
    """Hold what a run was and what it gave; what it has not reached is None."""

    NULLS: ClassVar[frozenset[str]] = frozenset({"error", "ended", "experiment"})

    schema_version: int | None = None
    run_id: str | None = None
    status: str | None = None
    error: str | None = None
    started: str | None = None
    """UTC, ISO 8601; likewise `ended`."""
    ended: str | None = None
    label: str | None = None
    experiment: str | None = None
    """The named setting, where nothing of it was changed."""
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str | None = None
    overrides: list[str] | None = None
    config_flags: list[str] | None = None
    provenance: Provenance | None = None
    model: ModelNotes | None = None
    data: DataSummary | None = None
    calibrated_schedule: CalibratedSchedule | None = None
    timing_before: Timing | None = None
    calibration_seconds: float | None = None
    resumed_from: Resumed | None = None
    steps: Steps | None = None
    tokens: Tokens | None = None
    step_time_ms: StepTimes | None = None
    metrics: Metrics | None = None
    parameters: Parameters | None = None
    peak_memory_mb: float | None = None
    sparsity: Sparsity | None = None
    evaluations: list[Scores] | None = None
    flops: Flops | None = None
    lock_wait_seconds: float | None = None
    timing: Timing | None = None
    dense_reference_key: str | None = None
    dense_reference_ms: float | None = None
    ms_per_step: float | None = None
    run_speedup: float | None = None
    timing_error: str | None = None

    @property
    def final(self) -> Scores | None:
        """Return the last evaluation of the validation split; None before the first."""
        return None if self.metrics is None else self.metrics.validation
