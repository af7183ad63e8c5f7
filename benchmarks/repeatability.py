"""Can the timing be believed? Three questions, each answered by repeating a paired measurement.

    python benchmarks/repeatability.py spread     ten times the same setting, half of them beside a load
    python benchmarks/repeatability.py control    forty times stock against itself: is 1 in the interval?
    python benchmarks/repeatability.py parallel   four jobs at once under the lock, and one by one

Each takes half an hour or more of a quiet machine and writes its rows to `docs/results/<question>.csv` as
they come; `parallel` goes on after the repeats that are there.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from common import RESULTS, add_row, arguments, composed, finish_bench, start_bench

from sparselora.cli.command import steady_process
from sparselora.report.analysis.statistics import pooled_ratio

SETTINGS = ("dense", "original", "fallback", "optimized")


class Rows:
    """Keep the rows of one question, in `docs/results/<question>.csv` as they come.

    Args:
        goes_on: whether those that are there stay.
    """

    def __init__(self, question: str, goes_on: bool = False) -> None:
        self.path = RESULTS / f"{question}.csv"
        self.rows: list[dict[str, Any]] = []
        if goes_on and self.path.exists():
            self.rows = pd.read_csv(self.path).to_dict("records")  # type: ignore[assignment]

    def add(self, row: dict[str, Any]) -> None:
        """Print a row and write it; the first one begins the file anew."""
        self.rows.append(row)
        if len(self.rows) == 1:
            self.path.unlink(missing_ok=True)
        add_row(self.path, row)
        print(row, flush=True)


def relative_range(values: Sequence[float]) -> float:
    """Return (max − min) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def figures(content: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the questions look at."""
    names = ["stock_dense_ms", "speedup", "speedup_low", "speedup_high", "rounds"]
    names += ["aa_speedup", "aa_low", "aa_high", "lock_wait_seconds"]
    return {name: round(content[name], 4) for name in names}


def load() -> None:
    """Load one core as another program would, with products of small matrices, for ever."""
    import torch

    torch.set_num_threads(1)
    one = torch.randn(256, 256)
    while True:
        one = torch.tanh(one @ one)


def spread(work: Path) -> str:
    """Repeat one setting, half the time beside a process that loads the core that is measured on.

    On one core the load takes time from every arm alike. With two threads and one of two cores loaded
    it slows the matrix products more than what lies between them, and the speed-up itself shifts.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("spread: pinning to one core takes Linux")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # what is started from here inherits it
    rows = Rows("spread")
    overrides = ["experiment=optimized", "model=distilbert-random", "train.threads=1"]
    overrides += ["bench.batch_size=16", "bench.seq_len=27"]
    overrides += ["measure.min_rounds=18", "measure.seconds=1"]
    for repeat in range(10):
        loaded = repeat % 2 == 1
        other = multiprocessing.Process(target=load, daemon=True)
        if loaded:
            other.start()
        folder = work / f"spread{repeat}"
        content = finish_bench(start_bench(overrides, folder), folder)
        if loaded:
            other.terminate()
            other.join()
        rows.add({"repeat": repeat, "loaded": loaded, **figures(content)})
    ranges = {
        name: relative_range([row[name] for row in rows.rows])
        for name in ("speedup", "stock_dense_ms")
    }
    return (
        f"(max − min) / median: speed-up {ranges['speedup']:.1%}, "
        f"stock ms/step {ranges['stock_dense_ms']:.1%}"
    )


def control(_: Path) -> str:
    """Time the embedded model against itself in one process, where only the repeats differ.

    On one thread: with two that share a core, a step waits for whatever delays either of them, and the
    ratio of two steps scatters twice as much. The number of rounds is fixed: to stop once an interval is
    narrow would pick those that are narrow by luck.
    """
    import torch
    from transformers import set_seed

    from sparselora.data.batches import tokenize, training_batches
    from sparselora.data.load import load_data
    from sparselora.machine.device import use_threads
    from sparselora.measuring.arms import AGAIN, STOCK, Arms
    from sparselora.measuring.interleave import Budget, interleave, paired_ratio
    from sparselora.model.load import load_model, load_tokenizer

    run = composed(["experiment=dense", "train.batch_size=8", "train.threads=1"])
    device = torch.device("cpu")
    use_threads(run.train.threads)
    set_seed(1)
    data, tokenizer = load_data(run.data), load_tokenizer(run.model)
    model = load_model(run, data.label_names, tokenizer.pad_token_id)
    split = tokenize(tokenizer, data.splits["train"], run.data.max_length)
    endless = training_batches(tokenizer, split, run.train.batch_size, seed=1)
    budget = Budget(min_rounds=110, max_rounds=110, seconds=600, width=0.0)
    rows = Rows("control")
    for repeat in range(40):
        arms = Arms(model, None, run.train, device)
        batches = [next(endless) for _ in range(run.measure.batches)]

        def step(name: str, number: int, arms: Any = arms, batches: Any = batches) -> Any:
            return arms.step(name, [batches[number % len(batches)]])

        began = time.perf_counter()
        times = interleave(
            {name: partial(step, name) for name in (STOCK, AGAIN)},
            budget,
            lambda _: 1.0,
            seed=repeat,
        )
        ratio = paired_ratio(times[STOCK], times[AGAIN])
        row = {
            "repeat": repeat,
            "rounds": len(times[STOCK]),
            "aa_speedup": round(ratio.median, 4),
            "aa_low": round(ratio.low, 4),
            "aa_high": round(ratio.high, 4),
            "half_width": round((ratio.high - ratio.low) / 2, 4),
            "holds_one": ratio.low <= 1.0 <= ratio.high,
            "seconds": round(time.perf_counter() - began, 1),
        }
        rows.add(row)
    held = sum(row["holds_one"] for row in rows.rows)
    widest = max(row["half_width"] for row in rows.rows)
    return f"1 is in {held} of {len(rows.rows)} intervals; the widest is ± {widest:.2%}"


def parallel(work: Path) -> str:
    """Run the same four jobs at once, then one after the other, eight times in turn.

    What one process measures differs from what the next one does, by its memory's place and by what the
    neighbours on the machine do; no interval of one process knows of that. So each way is repeated and
    its repeats are pooled as a report pools a setting's runs.
    """
    rows = Rows("parallel", goes_on=True)
    there = {(row["repeat"], row["way"], row["experiment"]) for row in rows.rows}
    # Batches of one length: the data's own have a ratio each, and their spread would be in the interval.
    common = ["bench.batch_size=16", "bench.seq_len=27", "train.threads=1"]
    common += ["measure.min_rounds=20", "measure.seconds=25"]
    for repeat in range(8):
        for way in ("at once", "one by one"):
            if all((repeat, way, name) in there for name in SETTINGS):
                continue
            running = []
            for name in SETTINGS:
                folder = work / f"{way.replace(' ', '-')}-{name}-{repeat}"
                running.append((name, folder, start_bench([f"experiment={name}", *common], folder)))
                if way == "one by one":
                    running[-1][2].wait()
            for name, folder, process in running:
                content = finish_bench(process, folder)
                rows.add({"repeat": repeat, "way": way, "experiment": name, **figures(content)})
    lines = []
    for name in SETTINGS:
        at_once, alone = (
            pooled([row for row in rows.rows if (row["experiment"], row["way"]) == (name, way)])
            for way in ("at once", "one by one")
        )
        overlap = at_once[1] <= alone[2] and alone[1] <= at_once[2]
        half = max((high - low) / 2 / middle for middle, low, high in (at_once, alone))
        lines.append(
            f"{name}: {at_once[0]:.3f} ({at_once[1]:.3f} to {at_once[2]:.3f}) at once, {alone[0]:.3f} "
            f"({alone[1]:.3f} to {alone[2]:.3f}) alone, intervals "
            f"{'overlap' if overlap else 'do not overlap'}, the wider ± {half:.2%}"
        )
    return "\n".join(lines)


def pooled(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Return the geometric mean of repeats with its 95 % interval."""
    names = ("speedup", "speedup_low", "speedup_high")
    return pooled_ratio(*([row[name] for row in rows] for name in names))


def main() -> None:
    """Answer one question."""
    parser = arguments(__doc__)
    questions = {"spread": spread, "control": control, "parallel": parallel}
    parser.add_argument("question", choices=questions)
    name = parser.parse_args().question
    began = time.perf_counter()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    steady_process()
    with tempfile.TemporaryDirectory() as work:
        print(questions[name](Path(work)))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
