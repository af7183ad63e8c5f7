"""Does the calibrated schedule beat the guessed ones at the same FLOPs? Error of the model's output.

    python benchmarks/schedules.py                     three calibration draws, the default estimator
    python benchmarks/schedules.py --estimator static --sparsity 0.75

Each draw calibrates on training examples that the others do not see. The error is that of the last hidden
states of validation examples, whose groups are others: ‖sparse − dense‖² / ‖dense‖² by example, every
layer sparse at once. Differences are paired by example; their intervals resample groups. Writes
`docs/results/schedules.csv`.
"""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from common import add_row, arguments, composed
from torch import Tensor, nn
from transformers import set_seed

from sparselora.data.batches import evaluation_batches, tokenize, training_batches
from sparselora.data.load import load_data
from sparselora.model.load import load_model, load_tokenizer
from sparselora.sparse.backbone.lookup import get_backbone
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.moments import Calibration
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.patch import sparsify
from sparselora.sparse.sensitivity import calibrated_config
from sparselora.training.calibration_cache import CURVE_BATCHES

DRAWS, BATCHES = 3, 16


@torch.no_grad()
def errors(
    model: nn.Module,
    config: SparsityConfig,
    calibration: Calibration,
    batches: list[tuple[list[int], dict[str, Tensor]]],
) -> np.ndarray:
    """Return the relative squared error of the output by validation example, in their own order."""
    backbone = get_backbone(model)
    handle = sparsify(model, config, calibration)
    model.eval()
    result = np.full(1 + max(index for indices, _ in batches for index in indices), np.nan)
    for indices, batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        dense = backbone(**inputs)[0]
        for ffn in handle.sparse_blocks.values():
            ffn.set_training(True)  # sparse in a model in evaluation mode: nothing is dropped
        with handle.without_gradients():
            sparse = backbone(**inputs)[0]
        for ffn in handle.sparse_blocks.values():
            ffn.set_training(False)
        real = (batch["attention_mask"] != 0).unsqueeze(2)
        gap = ((sparse - dense) * real).square().sum((1, 2))
        result[indices] = (gap / (dense * real).square().sum((1, 2))).numpy()
    handle.remove()
    return result


def main() -> None:
    """Print a line for each draw and schedule, and write it."""
    parser = arguments(__doc__, "schedules.csv")
    parser.add_argument("--estimator", default="whitened")
    parser.add_argument("--sparsity", type=float, default=0.65)
    options = parser.parse_args()
    run = composed([f"estimator={options.estimator}", f"ffn_sparsity={options.sparsity}"])
    set_seed(run.seed)
    data, tokenizer = load_data(run.data), load_tokenizer(run.model)
    model = load_model(run, data.label_names, tokenizer.pad_token_id)
    train, held_back = (
        tokenize(tokenizer, data.splits[name], run.data.max_length)
        for name in ("train", "validation")
    )
    endless = training_batches(tokenizer, train, 32, run.seed)
    evaluation = list(evaluation_batches(tokenizer, held_back, 64))
    groups = pd.factorize(pd.Series(data.splits["validation"].groups))[0]
    generator = np.random.default_rng(0)
    options.out.unlink(missing_ok=True)
    for draw in range(DRAWS):
        batches = list(itertools.islice(endless, BATCHES))
        moments = calibrate(model, batches)
        base = replace(run.sparsity, rule="uniform", layer_sparsity={})
        measured = calibrated_config(
            model, replace(base, rule="calibrated"), moments, batches[:CURVE_BATCHES]
        )
        settings = {"calibrated": measured, "uniform": base, "ramp": replace(base, rule="ramp")}
        found = {
            name: errors(model, config, moments, evaluation) for name, config in settings.items()
        }
        for name, by_example in found.items():
            less = by_example - found["calibrated"]
            sums = np.bincount(groups, weights=less)
            counts = np.bincount(groups)
            which = generator.integers(len(counts), size=(4000, len(counts)))
            means = sums[which].sum(1) / counts[which].sum(1)
            low, high = np.quantile(means, [0.025, 0.975])
            spread = " ".join(f"{v:.3f}" for v in measured.layer_sparsity.values())
            figures = {"error": by_example.mean(), "less": less.mean(), "low": low, "high": high}
            row = {"draw": draw, "schedule": name}
            row |= {key: f"{value:.5f}" for key, value in figures.items()}
            add_row(options.out, row | {"sparsities": spread if name == "calibrated" else ""})
            print(
                f"draw {draw} {name:11} error {by_example.mean():.4f}"
                + (
                    f"  ({spread})"
                    if name == "calibrated"
                    else f", calibrated is lower by {less.mean():.4f} ({low:.4f} to {high:.4f})"
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
