"""Hold the sections of a record that say what a step costs: its time, its memory and its FLOPs."""

from dataclasses import dataclass

from sparselora.records.typed import Section


@dataclass(kw_only=True)
class Timing(Section):
    """Hold one interleaved measurement: times in ms per optimizer step, ratios over stock PEFT LoRA."""

    rounds: int | None
    stock_dense_ms: float | None
    own_dense_ms: float | None
    sparse_ms: float | None
    """None in plain LoRA, as are the figures over our dense path."""
    speedup: float | None
    speedup_low: float | None
    """Of the 95 % interval; likewise every `_low` and `_high`."""
    speedup_high: float | None
    dense_speedup: float | None
    own_speedup: float | None
    own_speedup_low: float | None
    own_speedup_high: float | None
    aa_speedup: float | None
    """Stock over itself."""
    aa_low: float | None
    aa_high: float | None
    stable: bool | None
    peak_memory_mb: float | None
    dense_peak_memory_mb: float | None
    reserved_memory_mb: float | None
    dense_reserved_memory_mb: float | None
    saved_for_backward_mb: float | None
    dense_saved_for_backward_mb: float | None
    load_average: list[float] | None
    bound: float | None
    """Dense FLOPs over sparse FLOPs, on the timed batches."""
    efficiency: float | None
    """`own_speedup` over `bound`."""


@dataclass(kw_only=True)
class PhaseTimes(Section):
    """Summarise the times of one phase's steps, in ms; None where there was no step."""

    steps: int
    p10: float | None
    p50: float | None
    p90: float | None
    mean: float | None


@dataclass(kw_only=True)
class StepTimes(Section):
    """Hold the times of dense and of sparse steps, which are never mixed."""

    dense: PhaseTimes
    sparse: PhaseTimes


@dataclass(kw_only=True)
class FlopTerms(Section):
    """Count the FLOPs of one optimizer step, by term."""

    query_key_value: int
    output_projection: int
    attention: int
    ffn_lin1: int
    ffn_lin2: int
    estimator: int
    lora: int
    head: int
    compensation: int | None
    embeddings: int | None
    relative_attention: int | None
    """Of scores by distance, as in DeBERTa."""
    total: int


@dataclass(kw_only=True)
class Flops(Section):
    """Compare the FLOPs of a mean optimizer step, dense and in the sparse phase."""

    dense: FlopTerms
    sparse: FlopTerms | None
    """None in plain LoRA."""
    bound: float | None
    gather_bytes: int | None
