"""Sum up a run's data, steps, parameters and sparsity in sections of its record."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from peft import PeftModel

from sparselora.data.batches import TokenizedSplit
from sparselora.data.load import LoadedData
from sparselora.machine.timer import quantiles
from sparselora.records.costs import PhaseTimes, StepTimes
from sparselora.records.sections import (
    DataSummary,
    LayerSparsity,
    Parameters,
    Sparsity,
    Steps,
    Tokens,
)
from sparselora.records.typed import build
from sparselora.sparse.patch import SparsityHandle
from sparselora.training.loop import StepPlan, StepRow


def of_data(data: LoadedData, tokenized: Mapping[str, TokenizedSplit]) -> DataSummary:
    """Return the sizes of the splits, the labels, and the accuracy of always saying the commonest."""
    lengths, validation = tokenized["train"].lengths, data.splits["validation"]
    answers: Sequence[str | int] = validation.completions or validation.labels
    return DataSummary(
        rows={name: len(split) for name, split in data.splits.items()},
        groups={name: len(set(split.groups)) for name, split in data.splits.items()},
        dropped_rows=data.dropped_rows,
        dropped=dict(data.dropped),
        notes=list(data.notes),
        label_map={str(index): name for index, name in enumerate(data.label_names)},
        majority_share=Counter(answers).most_common(1)[0][1] / len(answers),
        cut_completions={name: split.cut_completions for name, split in tokenized.items()},
        mean_tokens=sum(lengths) / len(lengths),
    )


def of_steps(rows: Sequence[StepRow], plan: StepPlan) -> Steps:
    """Count the steps that were planned, and those that were done."""
    return Steps(
        planned=plan.phases.total_steps,
        planned_dense=plan.phases.total_steps - plan.phases.sparse_steps,
        dense=sum(row.phase == "dense" for row in rows),
        sparse=sum(row.phase == "sparse" for row in rows),
    )


def of_tokens(rows: Sequence[StepRow]) -> Tokens:
    """Count the tokens of the steps that were done."""
    return Tokens(
        real=sum(row.tokens for row in rows), padded=sum(row.padded_tokens for row in rows)
    )


def of_times(rows: Sequence[StepRow]) -> StepTimes:
    """Sum up the steps' times by phase: the two are never mixed."""
    return StepTimes(dense=_times(rows, "dense"), sparse=_times(rows, "sparse"))


def _times(rows: Sequence[StepRow], phase: Literal["dense", "sparse"]) -> PhaseTimes:
    return build(PhaseTimes, quantiles([row.milliseconds for row in rows if row.phase == phase]))


def of_parameters(model: PeftModel) -> Parameters:
    """Count the parameters that train, and all of them."""
    trained, total = model.get_nb_trainable_parameters()  # which knows of weights in 4 bits
    return Parameters(trained=trained, total=total)


def of_sparsity(handle: SparsityHandle | None) -> Sparsity:
    """Return sparsity by layer, and unweighted means over layers; plain LoRA has no handle."""
    if handle is None:
        return Sparsity(mean=0.0, realised_mean=0.0, layers=[])
    layers = handle.report()
    counted = [layer.realised_sparsity for layer in layers if layer.realised_sparsity is not None]
    return Sparsity(
        mean=sum(layer.sparsity for layer in layers) / len(layers),
        realised_mean=sum(counted) / len(layers) if len(counted) == len(layers) else None,
        layers=[build(LayerSparsity, asdict(layer)) for layer in layers],
    )
