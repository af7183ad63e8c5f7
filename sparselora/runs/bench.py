"""Time one checked setting without training it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from sparselora.config.naming import describe
from sparselora.config.schema import RunConfig
from sparselora.machine.device import choose_device, use_threads
from sparselora.machine.lock import DeviceLock
from sparselora.machine.provenance import provenance
from sparselora.measuring.roofline import roofline
from sparselora.model.load import load_model_config, load_tokenizer
from sparselora.records.costs import Flops, Timing
from sparselora.records.files import write_json
from sparselora.records.record import BENCH_NAME
from sparselora.records.sections import Provenance
from sparselora.records.typed import build
from sparselora.runs.checks import user_keys
from sparselora.runs.job import Origin, Silence, Watch
from sparselora.runs.setup import Inputs, prepare, read_inputs
from sparselora.runs.timing import time_setting
from sparselora.sparse.channels.tokens import IGNORED


@dataclass(frozen=True)
class DrawnInputs:
    """Hold the recipe of batches of one length that are drawn at random, for want of data."""

    run: RunConfig
    tokenizer: Any
    length: int
    label_names: Sequence[str] = ("0", "1")
    notes: dict[str, Any] = field(default_factory=dict)

    def batches(self, count: int) -> list[dict[str, Tensor]]:
        """Return the first batches of the run's seed."""
        generator = torch.Generator().manual_seed(self.run.seed)
        words = min(len(self.tokenizer), load_model_config(self.run.model).vocab_size)
        size = (self.run.train.batch_size, self.length)
        drawn = [
            {
                "input_ids": torch.randint(words, size, generator=generator),
                "attention_mask": torch.ones(size, dtype=torch.long),
                "labels": torch.randint(2, size[:1], generator=generator),
            }
            for _ in range(count)
        ]
        if self.run.task.name == "causal_lm":
            for batch in drawn:  # the last quarter is the completion
                batch["labels"] = batch["input_ids"].clone()
                batch["labels"][:, : -max(self.length // 4, 1)] = IGNORED
        return drawn


def bench_job(
    run: RunConfig,
    sparsities: Sequence[float],
    folder: Path,
    origin: Origin | None = None,
    watch: Watch = lambda label: nullcontext(Silence()),
) -> dict[str, Any]:
    """Time one checked setting; return what `bench.json` in `folder` then holds.

    Args:
        run: the checked settings; `run.bench` may ask for another batch size, and for a length.
        sparsities: asked of each layer, from `check_shape`.
        folder: that exists.
        origin: what the setting was asked for with.
        watch: makes what follows the rounds.
    """
    origin = origin or Origin()
    if run.bench.batch_size is not None:
        run = replace(run, train=replace(run.train, batch_size=run.bench.batch_size))
    device = choose_device(run.train.device)
    use_threads(run.train.threads)
    set_seed(run.seed)
    lock = DeviceLock(device)
    prepared = prepare(run, sparsities, _inputs(run, lock), device, lock)
    label = describe(run, sparsities, origin.experiment, user_keys(origin.overrides))
    with watch(label) as watcher:
        measured = time_setting(prepared, lock, watcher.on_round)
    with lock.alone():
        probe = roofline(
            device, torch.bfloat16 if run.train.precision.name == "bf16" else torch.float32
        )
    content = {
        "label": label,
        "model": run.model.name,
        "random_weights": run.model.random_init,
        "batch_size": run.train.batch_size,
        "mean_length": measured.mean_length,
        **measured.timing.to_dict(),
        "sparsities": prepared.fitted.sparsities,
        "flops": measured.flops.to_dict(),
        "achieved": _achieved(measured.timing, measured.flops, probe),
        "roofline": probe,
        "lock_wait_seconds": lock.waited_seconds,
        "config": run.to_dict(),
        "overrides": list(origin.overrides),
        "config_flags": list(origin.config_flags),
        "provenance": build(Provenance, provenance(device)).to_dict(),
    }
    write_json(folder / BENCH_NAME, content)
    return content


def _inputs(run: RunConfig, lock: DeviceLock) -> Inputs:
    tokenizer = load_tokenizer(run.model)
    if run.bench.seq_len is not None:
        return DrawnInputs(run, tokenizer, run.bench.seq_len)
    return read_inputs(run, lock, tokenizer, splits=["train"])


def _achieved(timing: Timing, flops: Flops, probe: Mapping[str, Any]) -> dict[str, float | None]:
    """Return shares of what the probe reached.

    Near 1, a step is bound by arithmetic; far below, it is not. `gather` is the share of the sparse step
    that its gathers would take at the bandwidth of a copy.
    """
    assert timing.own_dense_ms is not None
    rate = probe["matmul_gflops"] * 1e9
    dense = flops.dense.total / (timing.own_dense_ms / 1e3) / rate
    if timing.sparse_ms is None:
        return {"own_dense": dense, "sparse": None, "gather": None}
    assert flops.sparse is not None
    assert flops.gather_bytes is not None
    seconds = timing.sparse_ms / 1e3
    return {
        "own_dense": dense,
        "sparse": flops.sparse.total / seconds / rate,
        "gather": flops.gather_bytes / (probe["copy_gb_per_second"] * 1e9) / seconds,
    }
