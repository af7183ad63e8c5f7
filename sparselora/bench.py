"""`python -m sparselora.bench`: times a setting without training it; with `-m` several into one table.

Takes the settings that `sparselora.run` takes, and `bench.batch_size` and `bench.seq_len`. Writes
`bench.json` in its own folder, below `outputs/runs` or `outputs/multiruns`.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sparselora.cli.command import EXECUTION_WHITELIST, execute
from sparselora.cli.job import config_flags, from_where_the_user_stands
from sparselora.cli.progress import Progress
from sparselora.config.checks import parse_config
from sparselora.config.choices import check_choices
from sparselora.paths import CONF
from sparselora.runs.checks import check_shape, user_keys

if TYPE_CHECKING:
    from sparselora.config.schema import RunConfig


@from_where_the_user_stands
def task(config: DictConfig) -> float:
    """Time one setting in Hydra's output folder; returns ms/step."""
    job = HydraConfig.get()
    keys = user_keys(list(job.overrides.task))
    run = parse_config(config, keys)
    check_choices(run, job.runtime.choices, keys)
    sparsities = check_shape(run, keys)
    if run.bench.batch_size is not None:
        run = replace(run, train=replace(run.train, batch_size=run.bench.batch_size))

    import torch
    from rich.console import Console
    from transformers import set_seed

    from sparselora.config.checks import is_dense
    from sparselora.config.naming import describe
    from sparselora.machine.device import choose_device, use_threads
    from sparselora.machine.lock import DeviceLock
    from sparselora.machine.provenance import provenance
    from sparselora.measuring import bound
    from sparselora.measuring.dimensions import kept_of
    from sparselora.measuring.measure import measure
    from sparselora.measuring.roofline import roofline
    from sparselora.model.load import load_model, load_tokenizer
    from sparselora.model.tasks import TASKS
    from sparselora.records.files import write_atomically
    from sparselora.records.record import BENCH_NAME
    from sparselora.report.rendering.bench_table import print_bench
    from sparselora.training.calibration_cache import fit
    from sparselora.training.stepper import autocast

    device = choose_device(run.train.device)
    use_threads(run.train.threads)
    set_seed(run.seed)
    tokenizer = load_tokenizer(run.model)
    lock = DeviceLock(device)
    with lock.shared():
        batches, calibrating, labels = _batches(run, tokenizer)
        model = load_model(run, labels, tokenizer.pad_token_id).to(device)
    dense = is_dense(run, sparsities)
    experiment = job.runtime.choices.get("experiment")
    label = describe(run, sparsities, experiment, keys)
    with lock.shared():
        fitted = fit(
            model,
            run.sparsity,
            sparsities,
            lambda: calibrating,
            lambda: autocast(run.train, device),
        )
    with Progress(label) as progress:
        timing = measure(
            model,
            None if dense else fitted.config,
            batches,
            run.train,
            run.measure,
            device,
            lock,
            progress.on_round,
            calibration=fitted.calibration,
            loss=TASKS[run.task.name].loss,
        )
    flops = bound.add_bound(timing, model, run, kept_of(model, fitted.sparsities), batches)
    with lock.alone():
        probe = roofline(
            device, torch.bfloat16 if run.train.precision.name == "bf16" else torch.float32
        )
    content = {
        "label": label,
        "model": run.model.name,
        "random_weights": run.model.random_init,
        "batch_size": run.train.batch_size,
        "mean_length": sum(batch["input_ids"].shape[1] for batch in batches) / len(batches),
        **timing,
        "sparsities": fitted.sparsities,
        "flops": flops,
        "achieved": _achieved(timing, flops, probe),
        "roofline": probe,
        "lock_wait_seconds": lock.waited_seconds,
        "config": run.to_dict(),
        "overrides": list(job.overrides.task),
        "config_flags": config_flags(job),
        "provenance": provenance(device),
    }
    path = Path(job.runtime.output_dir) / BENCH_NAME
    text = json.dumps(content, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))
    if job.mode is None or job.mode.name != "MULTIRUN":
        print_bench([(content, path)], Console())
    return float(timing["sparse_ms"] or timing["own_dense_ms"])


def _batches(run: "RunConfig", tokenizer: Any) -> tuple[list[Any], list[Any], list[str]]:
    """Batches to time on, batches to calibrate on, and the labels' names."""
    import itertools

    import torch

    from sparselora.model.load import load_model_config
    from sparselora.sparse.channels.tokens import IGNORED

    timed = run.measure.batches * run.train.gradient_accumulation_steps
    count = max(timed, run.calibration.batches)
    if run.bench.seq_len is not None:
        generator = torch.Generator().manual_seed(run.seed)
        known = min(len(tokenizer), load_model_config(run.model).vocab_size)
        size = (run.train.batch_size, run.bench.seq_len)
        drawn = [
            {
                "input_ids": torch.randint(known, size, generator=generator),
                "attention_mask": torch.ones(size, dtype=torch.long),
                "labels": torch.randint(2, size[:1], generator=generator),
            }
            for _ in range(count)
        ]
        if run.task.name == "causal_lm":
            for batch in drawn:  # the last quarter is the completion
                batch["labels"] = batch["input_ids"].clone()
                batch["labels"][:, : -max(size[1] // 4, 1)] = IGNORED
        return drawn[:timed], drawn[: run.calibration.batches], ["0", "1"]
    from sparselora.data.batches import training_batches
    from sparselora.model.tasks import TASKS
    from sparselora.model.token_checks import check_tokens
    from sparselora.runs.checks import load_run_data

    data = load_run_data(run)
    split = TASKS[run.task.name].tokenize(tokenizer, data.splits["train"], run)
    check_tokens(run, tokenizer, {"train": split}, load_model_config(run.model))
    endless = training_batches(tokenizer, split, run.train.batch_size, run.seed)
    real = list(itertools.islice(endless, count))
    return real[:timed], real[: run.calibration.batches], data.label_names


def _achieved(
    timing: dict[str, Any], flops: dict[str, Any], probe: dict[str, Any]
) -> dict[str, float | None]:
    """Shares of what the probe reached: near 1, a step is bound by arithmetic; far below, it is not.

    `gather` is the share of the sparse step that its gathers would take at the bandwidth of a copy.
    """
    rate = probe["matmul_gflops"] * 1e9
    dense = flops["dense"]["total"] / (timing["own_dense_ms"] / 1e3) / rate
    if timing["sparse_ms"] is None:
        return {"own_dense": dense, "sparse": None, "gather": None}
    seconds = timing["sparse_ms"] / 1e3
    return {
        "own_dense": dense,
        "sparse": flops["sparse"]["total"] / seconds / rate,
        "gather": flops["gather_bytes"] / (probe["copy_gb_per_second"] * 1e9) / seconds,
    }


_UNUSED = (
    "measure.eval_",
    "measure.test",
    "measure.timing",
    "sparse_cooldown_ratio",
    "sparse_rampup_ratio",
    "sparse_warmup_ratio",
    "seeds",
    "train.checkpoint_every",
    "train.epochs",
    "train.keep_checkpoints",
    "train.max_steps",
    "train.resume",
)
"""What only training looks at."""

_hydra_main = hydra.main(
    config_path=str(CONF), config_name="config", execution_whitelist=EXECUTION_WHITELIST
)(task)


def main() -> int:
    """The command line; see `sparselora.cli.command.execute`."""
    return execute(_hydra_main, unused=_UNUSED)


if __name__ == "__main__":
    sys.exit(main())
