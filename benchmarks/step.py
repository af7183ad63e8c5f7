"""How fast is a sparse step, against stock PEFT LoRA? DistilBERT's sizes, random weights; and a decoder.

    python benchmarks/step.py                 every case, an hour on a quiet machine
    python benchmarks/step.py optimized       those whose name holds a word
    python benchmarks/step.py smollm2         the decoder's
    python benchmarks/step.py --cuda          what a GPU is for, ten minutes
    python benchmarks/step.py --list          the cases and what each is to reach

Each case is a `sparselora.bench` of its own: stock, our dense and our sparse path interleaved, optimizer
included, the same SDPA, fused AdamW, threads, batches, dtype and dropout rates on both sides. Rows go to
`docs/results/step.csv`, or `step_cuda.csv`, as they come, each in the place of an older one of its case.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, arguments, finish_bench, replace_case, start_bench

LONG, SHORT = (
    ("bench.batch_size=32", "bench.seq_len=64"),
    ("bench.batch_size=16", "bench.seq_len=27"),
)
DECODER = (
    *("model=smollm2", "task=causal_lm", "experiment=paper"),
    *("bench.batch_size=4", "bench.seq_len=256"),
)
WIDE = (
    *("model=llama-random", "task=causal_lm", "experiment=paper", "train.precision=bf16"),
    *("bench.batch_size=8", "bench.seq_len=1024"),
)
QUERY_VALUE, ALL_FOUR = "lora=query_value", "lora=attention"


@dataclass(frozen=True)
class Case:
    """Describe one row: what is timed, which figure counts, and what it is to reach."""

    name: str
    overrides: tuple[str, ...]
    figure: str
    target: float


def _named(shape: tuple[str, ...], label: str, targets: tuple[float, ...], lora: str) -> list[Case]:
    names = ("original", "fallback", "optimized")
    return [
        Case(f"{name} {label} {lora}", (f"experiment={name}", lora, *shape), "speedup", target)
        for name, target in zip(names, targets, strict=True)
    ]


def _deeper(name: str, decoder: tuple[str, ...], target: float) -> list[Case]:
    whole = (*decoder, "tokens=all")
    settings = {
        "FFN 0.9 deeper": whole,
        "FFN 0.9, attention 0.5 deeper": (*whole, "qk_sparsity=0.25", "vo_sparsity=0.25"),
        "FFN 0.9 deeper, context alone": decoder,
    }
    return [
        Case(f"{name}, {setting}", overrides, "efficiency", target)
        for setting, overrides in settings.items()
    ]


CASES = (
    *_named(LONG, "32x64", (1.45, 1.80, 2.00), QUERY_VALUE),
    *_named(SHORT, "16x27", (1.38, 1.68, 1.80), QUERY_VALUE),
    *_named(LONG, "32x64", (1.45, 1.80, 2.00), ALL_FOUR),
    *_named(SHORT, "16x27", (1.38, 1.68, 1.80), ALL_FOUR),
    Case(
        "static + lowrank 8, uniform 0.9, 32x64",
        (
            "schedule=uniform",
            "ffn_sparsity=0.9",
            "estimator=static",
            "compensation=lowrank",
            QUERY_VALUE,
            *LONG,
        ),
        "speedup",
        2.4,
    ),
    Case(
        "optimized 32x64 bf16",
        ("experiment=optimized", "train.precision=bf16", QUERY_VALUE, *LONG),
        "speedup",
        1.65,
    ),
    *_deeper("smollm2 4x256", DECODER, 0.92),
)

CUDA_CASES = (
    *_deeper("llama 8x1024", WIDE, 0.9),
    Case(
        "llama 8x1024, FFN 0.9 deeper, 4 bits",
        (*WIDE, "tokens=all", "model.quantization=nf4"),
        "efficiency",
        0.9,
    ),
    Case(
        "distilbert 64x128 bf16, optimized",
        (
            *("model=distilbert-random", "experiment=optimized", "train.precision=bf16"),
            *(QUERY_VALUE, "bench.batch_size=64", "bench.seq_len=128"),
        ),
        "efficiency",
        0.9,
    ),
)


def run_case(case: Case, folder: Path, rounds: int, device: str, more: list[str]) -> dict[str, Any]:
    """Time one case in a process of its own, and return what it wrote."""
    model = [] if case.overrides[0].startswith("model=") else ["model=distilbert-random"]
    overrides = [*model, *case.overrides, f"measure.min_rounds={rounds}", "train.threads=2"]
    return finish_bench(start_bench([*overrides, f"train.device={device}", *more], folder), folder)


FIELDS = (
    *("speedup", "speedup_low", "speedup_high", "dense_speedup", "own_speedup"),
    *("bound", "efficiency", "aa_low", "aa_high", "stock_dense_ms", "sparse_ms", "rounds"),
    *("saved_for_backward_mb", "dense_saved_for_backward_mb"),
    *("peak_memory_mb", "dense_peak_memory_mb"),
)


def main() -> None:
    """Run the cases and print what each reached."""
    parser = arguments(__doc__)
    parser.add_argument("word", nargs="?", default="", help="cases whose name holds it")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=[], help="more settings of every case")
    parser.add_argument("--cuda", action="store_true", help="a GPU's cases, on that GPU")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cases, device = (CUDA_CASES, "cuda") if options.cuda else (CASES, "cpu")
    if options.out is None:
        options.out = RESULTS / ("step_cuda.csv" if options.cuda else "step.csv")
    chosen = [case for case in cases if options.word in case.name]
    if options.list or not chosen:
        for case in cases:
            print(f"{case.name}: {case.figure} of at least {case.target}")
        return
    with tempfile.TemporaryDirectory() as work:
        for index, case in enumerate(chosen):
            content = run_case(case, Path(work) / str(index), options.rounds, device, options.set)
            row = {name: round(content[name], 4) for name in FIELDS}
            where = content["provenance"]
            written = {
                "case": case.name,
                "target": case.target,
                **row,
                "commit": where["git"]["commit"],
                "device": where["device"],
            }
            replace_case(options.out, case.name, [written])
            print(
                f"{case.name}: {row['speedup']:.3f} ({row['speedup_low']:.3f} to "
                f"{row['speedup_high']:.3f}), target {case.figure} {case.target}, bound "
                f"{row['bound']:.3f}, our dense {row['dense_speedup']:.3f}, over our dense "
                f"{row['own_speedup']:.3f}, {row['efficiency']:.1%} of the bound",
                flush=True,
            )


if __name__ == "__main__":
    main()
