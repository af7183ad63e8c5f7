"""What does sparsity itself cost in a step? DistilBERT's sizes, random weights, 32 × 64 tokens.

    python benchmarks/parts.py             two figures, some five minutes on a quiet machine
    python benchmarks/parts.py --rounds 5

1. The share of a sparse step that estimate and gather take: `whitened`, rank 8, optimized schedule,
   chosen anew in every step. At most 2 %.
2. The sparse path forced with every channel kept against our dense path, interleaved. At least 0.95.

Writes `docs/results/parts.csv`.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from common import arguments, composed, write_rows
from transformers import set_seed

from sparselora.config.schema import RunConfig
from sparselora.machine.device import use_threads
from sparselora.machine.lock import DeviceLock
from sparselora.measuring.arms import OWN, SPARSE, Arms
from sparselora.measuring.interleave import Budget, interleave, paired_ratio
from sparselora.model.load import load_model, load_tokenizer
from sparselora.sparse.channels.calibration import calibrate

SETTING = (
    *("schedule=optimized", "estimator=whitened", "svd_rank=8", "lora=query_value"),
    *("bench.batch_size=32", "bench.seq_len=64"),
)


def arms(overrides: Iterable[str] = SETTING) -> tuple[Arms, dict[str, torch.Tensor], RunConfig]:
    """Return stock, our dense and our sparse path, the batch they step over, and the settings.

    Args:
        overrides: `bench.batch_size` and `bench.seq_len` among them.
    """
    run = composed(["model=distilbert-random", "train.threads=2", *overrides])
    use_threads(run.train.threads)
    set_seed(run.seed)
    tokenizer = load_tokenizer(run.model)
    model = load_model(run, ["0", "1"], tokenizer.pad_token_id)
    assert run.bench.batch_size is not None
    assert run.bench.seq_len is not None
    ids = torch.randint(1000, 20000, (run.bench.batch_size, run.bench.seq_len))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    calibration = calibrate(model, [batch])
    batch["labels"] = torch.randint(2, ids.shape[:1])
    device = torch.device("cpu")
    return Arms(model, run.sparsity, run.train, device, calibration), batch, run


class Clock:
    """Add up the seconds spent inside functions; CPU work is done when they return."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added up."""

        @wraps(function)
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - began
            return result

        return timed


def share_of_choosing(rounds: int) -> list[float]:
    """Return the share of each sparse step that estimate, selection and gather take."""
    sparse, batch, _ = arms()
    clock = Clock()
    assert sparse.handle is not None
    for ffn in sparse.handle.sparse_blocks.values():
        for owner, name in ((ffn.choice, "select"), (ffn, "_gather")):
            setattr(owner, name, clock.around(getattr(owner, name)))
    shares = []
    with DeviceLock(sparse.device).alone():
        for number in range(-2, rounds):
            clock.seconds = 0.0
            milliseconds = sparse.step(SPARSE, [batch]).milliseconds()
            if number >= 0:
                shares.append(clock.seconds * 1e3 / milliseconds)
    return shares


def forced_over_dense(rounds: int) -> tuple[float, float, float]:
    """Return our dense path's time over the sparse path's with every channel kept, and its interval."""
    sparse, batch, _ = arms()
    assert sparse.handle is not None
    for ffn in sparse.handle.sparse_blocks.values():
        ffn.kept = ffn.block.intermediate_size
    budget = Budget(rounds, rounds, 3600.0, 0.0)
    with DeviceLock(sparse.device).alone():
        steps = {name: lambda _, name=name: sparse.step(name, [batch]) for name in (OWN, SPARSE)}
        times = interleave(steps, budget, lambda _: 1.0)
    ratio = paired_ratio(times[OWN], times[SPARSE])
    return ratio.median, ratio.low, ratio.high


def main() -> None:
    """Measure both figures, print them, and write them."""
    parser = arguments(__doc__, "parts.csv")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    shares = share_of_choosing(options.rounds)
    quartiles = statistics.quantiles(shares, n=4)
    found = [
        ("estimate and gather, share of a sparse step", quartiles[1], quartiles[0], quartiles[2]),
        ("our dense over every channel kept", *forced_over_dense(options.rounds)),
    ]
    rows = []
    for name, *values in found:
        ends = dict(
            zip(("median", "low", "high"), (f"{value:.4f}" for value in values), strict=True)
        )
        rows.append({"figure": name, **ends, "rounds": options.rounds})
        print(f"{name}: {ends['median']} ({ends['low']} to {ends['high']})")
    write_rows(options.out, rows)
    print("the share's range is its quartiles, the ratio's a 95 % interval")


if __name__ == "__main__":
    main()
