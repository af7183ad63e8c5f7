"""How near does each choice of channels come? Relative error of the FFN's output, layer by layer.

    python benchmarks/estimators.py                    the embedded model, the optimized schedule
    python benchmarks/estimators.py --rank 4 --tokens 64

Fitted on 16 batches of 32 training examples; the error is over up to 16 batches of validation examples,
whose groups are others: ‖sparse − dense‖ / ‖dense‖ over their real tokens, each layer given the dense
model's inputs. Writes `docs/results/estimators.csv` and a picture of it beside.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import altair as alt
import pandas as pd
import torch
from common import arguments, composed, write_rows
from torch import Tensor
from transformers import set_seed

from sparselora.data.batches import evaluation_batches, tokenize, training_batches
from sparselora.data.load import load_data
from sparselora.model.load import load_model, load_tokenizer
from sparselora.report.charts.style import PALETTE
from sparselora.sparse.backbone.calls import padding_mask
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.backbone.lookup import get_backbone
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.state import SparsityState
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.schedule import kept_channels, layer_sparsities


def arms(rank: int, tokens: int | None, compensation_rank: int) -> dict[str, SparsityConfig]:
    """Return every setting that is compared, by its name in the table."""
    base = SparsityConfig(
        estimator="svd", rule="uniform", svd_rank=rank, estimator_tokens=tokens, seed=0
    )
    low = replace(base, compensation="lowrank", compensation_rank=compensation_rank)
    mean = replace(base, compensation="mean")
    return {
        "random": replace(base, estimator="random"),
        "magnitude": replace(base, estimator="magnitude"),
        "svd": base,
        "svd, weighted": replace(base, estimator_weighted=True),
        "svd, all tokens": replace(base, estimator_tokens=None),
        "whitened, unweighted": replace(base, estimator="whitened"),
        "whitened": replace(base, estimator="whitened", estimator_weighted=True),
        "whitened, all tokens": replace(
            base, estimator="whitened", estimator_weighted=True, estimator_tokens=None
        ),
        "whitened + mean": replace(mean, estimator="whitened", estimator_weighted=True),
        "whitened + lowrank": replace(low, estimator="whitened", estimator_weighted=True),
        "static": replace(base, estimator="static"),
        "static + mean": replace(mean, estimator="static"),
        "static + lowrank": replace(low, estimator="static"),
        "oracle, unweighted": replace(base, estimator="oracle", estimator_tokens=None),
        "oracle": replace(base, estimator="oracle", estimator_weighted=True, estimator_tokens=None),
        "oracle + lowrank": replace(
            low, estimator="oracle", estimator_weighted=True, estimator_tokens=None
        ),
    }


@torch.no_grad()
def errors(overrides: Sequence[str], settings: dict[str, SparsityConfig]) -> dict[str, list[float]]:
    """Return the relative error by layer, for each setting."""
    run = composed(overrides)
    set_seed(run.seed)
    data, tokenizer = load_data(run.data), load_tokenizer(run.model)
    model = load_model(run, data.label_names, tokenizer.pad_token_id)
    split = {
        name: tokenize(tokenizer, data.splits[name], run.data.max_length)
        for name in ("train", "validation")
    }
    endless = training_batches(tokenizer, split["train"], 32, run.seed)
    moments = calibrate(model, list(itertools.islice(endless, 16)))
    blocks = find_blocks(model)
    sparsities = layer_sparsities(
        run.schedule.rule, len(blocks), run.ffn_sparsity, run.layer_sparsity
    )
    state = SparsityState()
    sparse = {
        name: [
            SparseFFN(
                block,
                config,
                kept_channels(sparsity, block.intermediate_size),
                state,
                moments[block.name],
            )
            for block, sparsity in zip(blocks, sparsities, strict=True)
        ]
        for name, config in settings.items()
    }
    squares = {name: torch.zeros(len(blocks), dtype=torch.float64) for name in settings}
    total = torch.zeros(len(blocks), dtype=torch.float64)
    inputs: list[Tensor] = []
    hooks = [
        block.entry.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for block in blocks
    ]
    backbone = get_backbone(model)
    model.eval()
    every = list(evaluation_batches(tokenizer, split["validation"], 32))
    for _, batch in every[:: -(-len(every) // 16)]:
        inputs.clear()
        model(**batch)
        mask = padding_mask(backbone, (), {"attention_mask": batch["attention_mask"]})
        state.enter(mask)
        real = batch["attention_mask"].flatten() != 0
        for index, (block, x) in enumerate(zip(blocks, inputs, strict=True)):
            flat = x.reshape(-1, x.shape[-1])
            dense = block.lin2(block.activations(flat))[real]
            total[index] += dense.double().square().sum()
            for name, ffns in sparse.items():
                gap = ffns[index].forward(flat)[real] - dense
                squares[name][index] += gap.double().square().sum()
    for hook in hooks:
        hook.remove()
    return {name: (square / total).sqrt().tolist() for name, square in squares.items()}


def plot(table: dict[str, list[float]], path: Path) -> None:
    """Draw a line for each estimator, with a point for each layer."""
    shown = ["random", "magnitude", "svd", "whitened", "static", "static + lowrank", "oracle"]
    rows = [
        {"estimator": name, "layer": layer, "error": error}
        for name in shown
        for layer, error in enumerate(table[name])
    ]
    kind = alt.Color("estimator:N", sort=shown).scale(range=list(PALETTE))
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(point=alt.OverlayMarkDef(filled=True, size=70))
        .encode(
            x=alt.X("layer:O", title="layer, 0 is the first"),
            y=alt.Y("error:Q", title="relative error of the FFN output"),
            color=kind,
            shape=alt.Shape("estimator:N", sort=shown),
        )
        .properties(width=560, height=340)
        .configure(background="white")
    )
    chart.save(path, scale_factor=2)


def main() -> None:
    """Print the table and write it."""
    parser = arguments(__doc__, "estimators.csv")
    parser.add_argument("--rank", type=int, default=8, help="svd_rank")
    parser.add_argument("--tokens", type=int, default=128, help="tokens scored; 0 for all")
    parser.add_argument("--compensation-rank", type=int, default=8)
    parser.add_argument("--schedule", default="optimized")
    options = parser.parse_args()
    settings = arms(options.rank, options.tokens or None, options.compensation_rank)
    table = errors([f"schedule={options.schedule}"], settings)
    layers = range(len(next(iter(table.values()))))
    print(f"{'estimator':24}" + "".join(f"{index:>8}" for index in layers) + f"{'mean':>8}")
    rows = []
    for name, values in table.items():
        figures = {f"layer.{index}": value for index, value in enumerate(values)}
        figures["mean"] = sum(values) / len(values)
        rows.append({"estimator": name, **{key: f"{each:.4f}" for key, each in figures.items()}})
        print(f"{name:24}" + "".join(f"{value:8.3f}" for value in figures.values()))
    write_rows(options.out, rows)
    plot(table, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
