"""Where does a step's time go? Stock PEFT LoRA, our dense path and our sparse one, part by part.

    python benchmarks/breakdown.py                                   optimized at 32 × 64 tokens
    python benchmarks/breakdown.py "original 16x27 lora=attention"   a case of `benchmarks/step.py`

Each operation of torch's is timed as it is called, which costs some microseconds each: compare parts, and
take times from `step.py`. Figures are medians over the steps. A part's GFLOP/s are those of its matrix
products, which are told apart by their sizes, so that a head's few count with others. The bound of a
speed-up counts FLOPs alone: as if all were done at one rate, and nothing else took time. Writes
`docs/results/breakdown.csv`.
"""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from common import arguments, replace_case
from parts import arms
from step import CASES, Case
from torch.utils._python_dispatch import TorchDispatchMode

from sparselora.machine.lock import DeviceLock
from sparselora.measuring.arms import OWN, SPARSE, STOCK, Arms
from sparselora.sparse.blocks.choice import ChannelChoice
from sparselora.sparse.blocks.ffn import SparseFFN
from sparselora.sparse.ops import dropout
from sparselora.sparse.ops import dropout_attention as attention

DEFAULT = "optimized 32x64 lora=query_value"
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm_")
FFN, PROJECTIONS, ADAPTERS, HEADS = "FFN", "attention's maps", "LoRA", "attention"
CHOOSING, MASKS = "estimate and gather", "dropout masks"
PARTS = (
    *(FFN, PROJECTIONS, ADAPTERS, HEADS, "softmax", "activation", MASKS, "layer norm", CHOOSING),
    *("optimizer", "by element", "other operations", "Python and autograd"),
)
"""The first four are matrix products."""
BY_WORD = {
    "softmax": "softmax",
    "gelu": "activation",
    "bernoulli": MASKS,
    "layer_norm": "layer norm",
    "_fused_adamw": "optimizer",
    "_foreach": "optimizer",
}
ELEMENTWISE = ("add", "mul", "div", "copy", "clone", "fill", "zero", "sum", "mask", "where")


class OperationTimer(TorchDispatchMode):
    """Add up seconds and FLOPs of all operations, by part.

    Args:
        hidden_size: tells the attention's square projections from the FFN's.
        rank: of LoRA: no other product has so small a side.
    """

    def __init__(self, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.hidden_size, self.rank = hidden_size, rank
        self.region: str | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self.region is not None:
            return func(*args, **(kwargs or {}))
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        spent = time.perf_counter() - began
        name = func.overloadpacket.__name__
        part = self._part(name, args)
        self.seconds[part] += spent
        if name in PRODUCTS:
            left, right = _factors(args)
            self.flops[part] += 2.0 * math.prod(left.shape) * right.shape[-1]
        return result

    def _part(self, name: str, args: tuple[Any, ...]) -> str:
        if name in PRODUCTS:
            left, right = _factors(args)
            if left.dim() == 3:
                return HEADS
            if min(*left.shape, right.shape[-1]) <= self.rank:
                return ADAPTERS
            return PROJECTIONS if set(right.shape) == {self.hidden_size} else FFN
        for word, part in BY_WORD.items():
            if word in name:
                return part
        return "by element" if any(word in name for word in ELEMENTWISE) else "other operations"

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added up, as one part."""

        def timed(*arguments: Any, **more: Any) -> Any:
            began, self.region = time.perf_counter(), part
            try:
                return function(*arguments, **more)
            finally:
                self.region = None
                self.seconds[part] += time.perf_counter() - began

        return timed


def _factors(args: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = [each for each in args if isinstance(each, torch.Tensor)][-2:]
    return left, right


@contextmanager
def _regions(timer: OperationTimer) -> Iterator[None]:
    whole = [(ChannelChoice, "select", CHOOSING), (SparseFFN, "_gather", CHOOSING)]
    whole += [(module, "keep_mask", MASKS) for module in (dropout, attention)]  # type: ignore[misc]
    with ExitStack() as stack:
        for owner, name, part in whole:
            timed = timer.around(part, getattr(owner, name))
            # A method that is a plain function is bound to its object, as it was before.
            stack.enter_context(mock.patch.object(owner, name, timed))
        yield


def breakdown(
    sparse: Arms, batch: dict[str, torch.Tensor], name: str, steps: int, rank: int
) -> dict[str, tuple[float, float]]:
    """Return milliseconds and GFLOPs of a step of one arm, by part."""
    hidden_size: int = sparse.models[STOCK].config.hidden_size  # type: ignore[assignment, union-attr]
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(-3, steps):
        timer = OperationTimer(hidden_size, rank)
        with _regions(timer), timer:
            whole = sparse.step(name, [batch]).milliseconds() / 1e3
        if number >= 0:
            timer.seconds[PARTS[-1]] = whole - sum(timer.seconds.values())
            for part in PARTS:
                seconds[part].append(timer.seconds[part])
    return {
        part: (statistics.median(seconds[part]) * 1e3, timer.flops[part] / 1e9) for part in PARTS
    }


def rows_of(case: Case, steps: int) -> Iterable[dict[str, Any]]:
    """Yield the table of one case, a row for each part."""
    sparse, batch, run = arms(case.overrides)
    with DeviceLock(sparse.device).alone():
        tables = {
            name: breakdown(sparse, batch, name, steps, run.lora.r) for name in (STOCK, OWN, SPARSE)
        }
    for part in PARTS:
        row: dict[str, Any] = {"case": case.name, "part": part}
        for name, table in tables.items():
            milliseconds, gflops = table[part]
            row[f"{name}_ms"] = round(milliseconds, 2)
            row[f"{name}_gflops_per_s"] = round(gflops / milliseconds * 1e3) if gflops else None
        yield row


def main() -> None:
    """Measure one case, print its parts, and write them."""
    parser = arguments(__doc__, "breakdown.csv")
    parser.add_argument("case", nargs="?", default=DEFAULT)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    named = {case.name: case for case in CASES if not case.overrides[0].startswith("model=")}
    if options.case not in named:
        parser.error(f"case {options.case}: one of {', '.join(named)}")
    rows = list(rows_of(named[options.case], options.steps))
    replace_case(options.out, options.case, rows)
    print("ms (GFLOP/s)".ljust(24), *(name.rjust(15) for name in (STOCK, OWN, SPARSE)))
    for row in rows:
        cells = []
        for name in (STOCK, OWN, SPARSE):
            rate = row[f"{name}_gflops_per_s"]
            cells.append(f"{row[f'{name}_ms']:8.1f} {'' if rate is None else f'({rate})':>6}")
        print(row["part"].ljust(24), *cells)
    totals = (sum(row[f"{name}_ms"] for row in rows) for name in (STOCK, OWN, SPARSE))
    print("all".ljust(24), *(f"{total:8.1f}       " for total in totals))


if __name__ == "__main__":
    main()
