"""What does each setting cost in accuracy? The embedded data, by seed.

    python benchmarks/accuracy.py                     every arm and seed, hours; goes on where it was
    python benchmarks/accuracy.py static --seeds 1 2  some of them
    python benchmarks/accuracy.py --summary           means, differences to dense, intervals
    python benchmarks/accuracy.py --suite decoder     the paper's ablations on the embedded decoder
    python benchmarks/accuracy.py dense "…" --test    on the test split: once, for what was chosen

The suite `encoder` compares estimators at the optimized schedule, with at most 20 % dense steps, and
attention's sparsity at the original one, in the default budget; `decoder` what the paper compares,
around `experiment=paper`. Each run is a `sparselora.run` of its own, two at a time with one thread each.
A row is added to `docs/results/accuracy.csv`, or `decoder.csv`, when a run ends, with `--test` to one
that ends in `_test.csv`; one that is there is not run again. `correct` holds, in hexadecimal, which
examples of the split, by ascending id, were predicted correctly after the last step.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
from common import RESULTS, add_row, arguments, composed, write_rows

from sparselora.report.analysis.predictions import Predictions, load_predictions
from sparselora.report.analysis.statistics import Bootstrap, Estimate

START = ("schedule=optimized", "sparse_warmup_ratio=0.2")
STATIC = ("estimator=static", "compensation=lowrank")
ORIGINAL = ("schedule=original", *STATIC, "sparse_warmup_ratio=0.05")
ORIGINAL_FINISH = (*ORIGINAL, "sparse_cooldown_ratio=0.15")
FINISH = ("schedule=optimized", "sparse_warmup_ratio=0.05", "sparse_cooldown_ratio=0.15")
ENCODER_ARMS: dict[str, tuple[str, ...]] = {
    "dense": ("experiment=dense",),
    "static + lowrank 64": (*STATIC, "compensation.rank=64", *START),
    "static + lowrank 64, ramp-up of 0.4": (
        *(*STATIC, "compensation.rank=64", *START),
        "sparse_rampup_ratio=0.4",
    ),
    "static + lowrank 8": (*STATIC, *START),
    "static + mean": ("estimator=static", "compensation=mean", *START),
    "static": ("estimator=static", *START),
    "whitened 8 + lowrank 8": ("estimator=whitened", "compensation=lowrank", *START),
    "whitened 8": ("estimator=whitened", *START),
    "svd 8": ("estimator=svd", *START),
    "svd 4 (experiment=optimized)": ("experiment=optimized",),
    "magnitude": ("estimator=magnitude", *START),
    "random": ("estimator=random", *START),
    "oracle": ("estimator=oracle", *START),
    "static + lowrank 8, dense finish": (*STATIC, *FINISH),
    "static + lowrank 32, dense finish": (*STATIC, "compensation.rank=32", *FINISH),
    "static + lowrank 64, dense finish": (*STATIC, "compensation.rank=64", *FINISH),
    "static + lowrank 32, dense finish of 0.2": (
        *(*STATIC, "compensation.rank=32", "schedule=optimized"),
        *("sparse_warmup_ratio=0", "sparse_cooldown_ratio=0.2"),
    ),
    "original, static + lowrank 8": ORIGINAL,
    "the same, q k 0.5": (*ORIGINAL, "qk_sparsity=0.5"),
    "the same, q k 0.5, v o 0.25": (*ORIGINAL, "qk_sparsity=0.5", "vo_sparsity=0.25"),
    "original, static + lowrank 8, dense finish": ORIGINAL_FINISH,
    "the same, dense finish, q k 0.25": (*ORIGINAL_FINISH, "qk_sparsity=0.25"),
    "the same, dense finish, q k 0.5 in the deeper half": (
        *ORIGINAL_FINISH,
        "layer_qk_sparsity={layer.3:0.5,layer.4:0.5,layer.5:0.5}",
    ),
    "the same, dense finish, q k 0.25 of all heads": (
        *ORIGINAL_FINISH,
        "qk_sparsity=0.25",
        "attention_scope=all_heads",
    ),
    "the same, dense finish of 0.3, q k 0.25": (
        *ORIGINAL,
        "sparse_cooldown_ratio=0.3",
        "qk_sparsity=0.25",
    ),
    "the same, dense finish of 0.3, rank 32, q k 0.25": (
        *ORIGINAL,
        "sparse_cooldown_ratio=0.3",
        "qk_sparsity=0.25",
        "compensation.rank=32",
    ),
    "ramp 0.2, static + lowrank 8, dense finish, q k 0.25 in the deeper half": (
        *("schedule=ramp", "ffn_sparsity=0.2", "estimator=static", "compensation=lowrank"),
        *("sparse_warmup_ratio=0.05", "sparse_cooldown_ratio=0.15"),
        "layer_qk_sparsity={layer.3:0.25,layer.4:0.25,layer.5:0.25}",
    ),
    "the same, dense finish, q k 0.25 in the deeper half": (
        *ORIGINAL_FINISH,
        "layer_qk_sparsity={layer.3:0.25,layer.4:0.25,layer.5:0.25}",
    ),
}
"""The number is the rank, of the estimate or of compensation."""
PAPER = ("experiment=paper",)
DECODER_ARMS: dict[str, tuple[str, ...]] = {
    "dense": ("experiment=dense",),
    "paper": PAPER,
    "all tokens": (*PAPER, "tokens=all"),
    "oracle": (*PAPER, "estimator=oracle"),
    "random": (*PAPER, "estimator=random"),
    "uniform layers": (*PAPER, "schedule=uniform", "ffn_sparsity=0.45"),
    "dense start 0": (*PAPER, "sparse_warmup_ratio=0"),
    "dense start 0.05": (*PAPER, "sparse_warmup_ratio=0.05"),
    "dense start 0.2": (*PAPER, "sparse_warmup_ratio=0.2"),
    "attention 0.5 in the deeper half": (*PAPER, "qk_sparsity=0.25", "vo_sparsity=0.25"),
}
"""`paper` is context alone, SVD of rank 8, FFN 0.9 in the deeper half, a dense start of 0.1."""


@dataclass(frozen=True)
class Suite:
    """Hold arms that are compared with each other."""

    arms: dict[str, tuple[str, ...]]
    common: tuple[str, ...]
    """Overrides of every arm."""
    file: str

    def overrides(self, arm: str) -> tuple[str, ...]:
        """Return the overrides on an arm's command line."""
        return (*self.common, *self.arms[arm])


SUITES = {
    "encoder": Suite(ENCODER_ARMS, (), "accuracy.csv"),
    "decoder": Suite(
        DECODER_ARMS,
        ("model=smollm2", "task=causal_lm", "train.max_steps=75", "measure.eval_first=false"),
        "decoder.csv",
    ),
}
FIELDS = (
    *("arm", "seed", "accuracy", "f1", "loss", "best_accuracy", "run_seconds"),
    *("calibration_seconds", "realised_sparsity", "commit", "overrides", "correct"),
)


def run(suite: Suite, arm: str, seed: int, folder: Path, split: str) -> dict[str, object]:
    """Fine-tune once, and return the row of one split."""
    command = [sys.executable, "-m", "sparselora.run", *suite.overrides(arm), f"seed={seed}"]
    command += ["measure=accuracy", "measure.eval_every=null", "train.threads=1"]
    command += [f"hydra.run.dir={folder}"]
    command += ["measure.test=true"] if split == "test" else ["train.keep_checkpoints=none"]
    began = time.perf_counter()
    quiet = subprocess.DEVNULL
    if subprocess.run(command, stdout=quiet, stderr=quiet, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(command)}; see {folder}")
    record = json.loads((folder / "record.json").read_text())
    final = record["metrics"][split]
    predictions = load_predictions(folder, split)
    assert predictions is not None
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": round(final["accuracy"], 5),
        "f1": round(final["f1"], 5) if "f1" in final else "",
        "loss": round(final["loss"], 5),
        "best_accuracy": round(record["metrics"]["best_validation"]["accuracy"], 5),
        "run_seconds": round(time.perf_counter() - began),
        "calibration_seconds": round(record["calibration_seconds"], 2),
        "realised_sparsity": round(record["sparsity"]["realised_mean"], 4),
        "commit": record["provenance"]["git"]["commit"],
        "overrides": " ".join(suite.overrides(arm)),
        "correct": np.packbits(predictions.correct).tobytes().hex(),
    }


def done(suite: Suite, path: Path) -> set[tuple[str, int]]:
    """Return the arms and seeds that are there, as they are defined now."""
    if not path.exists():
        return set()
    table = pd.read_csv(path)
    other = [
        arm
        for arm, how in zip(table["arm"], table["overrides"], strict=True)
        if arm not in suite.arms or " ".join(suite.overrides(arm)) != how
    ]
    if other:
        raise SystemExit(f"{path}: {other[0]} was another setting when it ran; move the file away")
    return set(zip(table["arm"], table["seed"], strict=True))


def work_off(
    suite: Suite,
    arms: list[str],
    seeds: list[int],
    jobs: int,
    path: Path,
    outputs: Path,
    split: str,
) -> None:
    """Run what is missing, seed by seed, so that arms stay comparable whenever it is stopped."""
    there = done(suite, path)
    todo = [(arm, seed) for seed in seeds for arm in arms]
    todo = [each for each in todo if each not in there]
    if not path.exists():
        write_rows(path, [], FIELDS)
    writing = Lock()

    def one(each: tuple[str, int]) -> None:
        folder = outputs / f"{list(suite.arms).index(each[0])}-{each[1]}-{os.getpid()}"
        row = run(suite, *each, folder, split)
        with writing:
            add_row(path, row)
        print(each, row["accuracy"], f"{row['run_seconds']} s", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, todo))


def main() -> None:
    """Run, or say what the rows come to."""
    parser = arguments(__doc__)
    parser.add_argument("arms", nargs="*", help="names of arms; all where none is given")
    parser.add_argument("--suite", choices=SUITES, default="encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/accuracy"))
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--test", action="store_true", help="on the test split")
    options = parser.parse_args()
    suite: Suite = SUITES[options.suite]
    path = RESULTS / suite.file
    split = "test" if options.test else "validation"
    if options.test:
        path = path.with_stem(f"{path.stem}_test")
    if options.summary:
        print(summary(suite, path, split))
        return
    unknown = [arm for arm in options.arms if arm not in suite.arms]
    if unknown:
        parser.error(f"{unknown[0]}: one of {', '.join(suite.arms)} is allowed")
    arms = options.arms or list(suite.arms)
    work_off(suite, arms, options.seeds, options.jobs, path, options.outputs, split)


def summary(suite: Suite, path: Path, of_split: str) -> str:
    """Return a line for each arm: means, differences to dense paired by seed, 95 % intervals."""
    from sparselora.runs.checks import load_run_data

    split = load_run_data(composed(suite.common)).splits[of_split]
    rows = pd.DataFrame({"id": split.example_ids, "group": split.groups}).sort_values("id")
    examples, groups = rows["id"].to_numpy(), rows["group"].to_numpy()
    bootstrap = Bootstrap(examples, groups)
    table = pd.read_csv(path)
    predictions: dict[str, dict[int, Predictions]] = {arm: {} for arm in suite.arms}
    for arm, seed, correct in table[["arm", "seed", "correct"]].itertuples(index=False):
        bits = np.frombuffer(bytes.fromhex(str(correct)), dtype=np.uint8)
        unpacked = np.unpackbits(bits, count=len(rows)).astype(bool)
        predictions[arm][seed] = Predictions(unpacked, examples, groups)
    losses = table.pivot(index="seed", columns="arm", values="loss")
    text = [
        f"{'arm':36}{'seeds':>5}  {'loss':8}{'to dense':>8}  {'accuracy, %':24}to dense, points"
    ]
    for arm, by_seed in predictions.items():
        if not by_seed:
            continue
        mean = _percent(bootstrap.mean(list(by_seed.values())), ".2f")
        line = f"{arm:36}{len(by_seed):5d}  {losses[arm].mean():<8.4f}"
        gap = None if arm == "dense" else bootstrap.difference(by_seed, predictions["dense"])
        if gap is None:
            text.append(f"{line}{'':8}  {mean}")
        else:
            worse = (losses[arm] - losses["dense"]).mean()
            text.append(f"{line}{worse:+8.4f}  {mean:24}{_percent(gap, '+.2f')}")
    commits = sorted(table["commit"].str[:8].unique())
    text.append(f"rows of commit {', '.join(commits)}; fewer than three seeds have no interval")
    return "\n".join(text)


def _percent(estimate: Estimate, form: str) -> str:
    mean = format(estimate.mean * 100, form)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} ({estimate.low * 100:{form}} to {estimate.high * 100:{form}})"


if __name__ == "__main__":
    main()
