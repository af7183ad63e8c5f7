"""What a run's record says of its data, steps, sparsity and cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from peft import PeftModel

from sparselora.data.batches import TokenizedSplit
from sparselora.data.load import LoadedData
from sparselora.machine.timer import quantiles
from sparselora.sparse.patch import SparsityHandle
from sparselora.training.loop import StepPlan, StepRow


def of_data(data: LoadedData, tokenized: Mapping[str, TokenizedSplit]) -> dict[str, Any]:
    """Sizes of the splits, the map of labels, and the accuracy of always saying the commonest."""
    lengths, validation = tokenized["train"].lengths, data.splits["validation"]
    answers: Sequence[str | int] = validation.completions or validation.labels
    return {
        "rows": {name: len(split) for name, split in data.splits.items()},
        "groups": {name: len(set(split.groups)) for name, split in data.splits.items()},
        "dropped_rows": data.dropped_rows,
        "dropped": dict(data.dropped),
        "notes": list(data.notes),
        "label_map": dict(enumerate(data.label_names)),
        "majority_share": Counter(answers).most_common(1)[0][1] / len(answers),
        "cut_completions": {name: split.cut_completions for name, split in tokenized.items()},
        "mean_tokens": sum(lengths) / len(lengths),
    }


def of_steps(rows: Sequence[StepRow], plan: StepPlan) -> dict[str, Any]:
    """Counts, tokens, and times in ms by phase: the two are never mixed."""
    done = {phase: [row for row in rows if row.phase == phase] for phase in ("dense", "sparse")}
    return {
        "steps": {
            "planned": plan.phases.total_steps,
            "planned_dense": plan.phases.total_steps - plan.phases.sparse_steps,
            "dense": len(done["dense"]),
            "sparse": len(done["sparse"]),
        },
        "tokens": {
            "real": sum(row.tokens for row in rows),
            "padded": sum(row.padded_tokens for row in rows),
        },
        "step_time_ms": {
            phase: quantiles([row.milliseconds for row in of_phase])
            for phase, of_phase in done.items()
        },
    }


def of_parameters(model: PeftModel) -> dict[str, int]:
    """How many train, and how many there are."""
    trained, total = model.get_nb_trainable_parameters()  # which knows of weights in 4 bits
    return {"trained": trained, "total": total}


def of_sparsity(handle: SparsityHandle | None) -> dict[str, Any]:
    """By layer, and unweighted means over layers; plain LoRA, which has no handle, has none."""
    if handle is None:
        return {"mean": 0.0, "realised_mean": 0.0, "layers": []}
    layers = handle.report()
    known = [layer.realised_sparsity for layer in layers if layer.realised_sparsity is not None]
    return {
        "mean": sum(layer.sparsity for layer in layers) / len(layers),
        "realised_mean": sum(known) / len(layers) if len(known) == len(layers) else None,
        "layers": [asdict(layer) for layer in layers],
    }
