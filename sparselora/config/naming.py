"""Give a setting a short name, for tables."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sparselora.config.identity import shapes_sparsity

if TYPE_CHECKING:
    from sparselora.config.schema import RunConfig


def describe(
    run: "RunConfig", sparsities: Sequence[float], experiment: str | None, keys: Collection[str]
) -> str:
    """Return the experiment's name where the user changed nothing of it, else its settings in short.

    Args:
        run: its settings.
        sparsities: of its layers.
        experiment: the option chosen of the group; None without one.
        keys: the dotted keys that the user set.
    """
    changed = [key for key in keys if shapes_sparsity(key)]
    if experiment is not None and not changed:
        return experiment
    if not any(sparsities) and not run.sparsity.sparsifies_attention:
        return "dense"
    mean = sum(sparsities) / len(sparsities)
    rank = "" if run.svd_rank is None else f" rank {run.svd_rank}"
    name = run.compensation.name
    compensation = "" if name == "none" else f" + {name}"
    if name == "lowrank":
        compensation += f" {run.compensation.rank}"
    dense = [f"{run.sparse_warmup_ratio:g}"]
    if run.sparse_rampup_ratio:
        dense.append(f"ramp {run.sparse_rampup_ratio:g}")
    finish = f", finish {run.sparse_cooldown_ratio:g}" if run.sparse_cooldown_ratio else ""
    attention = {"qk": run.qk_sparsity, "vo": run.vo_sparsity}
    for short, share in attention.items():
        named = getattr(run, f"layer_{short}_sparsity")
        if share or named:
            compensation += f" {short} {share:g}{' by layer' if named else ''}"
    if run.attention_scope != "per_head":
        compensation += f" {run.attention_scope}"
    if run.tokens != "all":
        sinks = f" + {run.sink_tokens} sinks" if run.sink_tokens else ""
        compensation += f" {run.tokens}{sinks}"
    start = f" start {' '.join(dense)}{finish}" if finish or len(dense) > 1 else ""
    for key in sorted(keys):
        group, _, name = key.partition(".")
        if group in ("estimator", "calibration") and name:
            start += f" {name}={getattr(getattr(run, group), name)}"
    return f"{run.schedule.name} {mean:.3g} {run.estimator.name}{rank}{compensation}{start}"
