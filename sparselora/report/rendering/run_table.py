"""Render one finished run as a table on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparselora.report import formats


def print_run(content: dict[str, Any], path: str, console: Console) -> None:
    """Print what one finished run gave.

    Args:
        content: of its record.
        path: of its record.
        console: where to.
    """
    metrics, times = content["metrics"], content["step_time_ms"]
    table = Table(
        title=f"{escape(content['label'])}, seed {content['config']['seed']}", show_header=False
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    final, best = metrics["validation"], metrics["best_validation"]
    completes = content["config"]["task"]["name"] == "causal_lm"
    kind = "exact match" if completes else "accuracy"
    first = content["evaluations"][0]
    table.add_row(
        f"validation {kind}",
        f"{final['accuracy']:.4f} ({_others(final)}) at the end; "
        + (f"before training {first['accuracy']:.4f}; " if first["step"] == 0 else "")
        + f"best {best['accuracy']:.4f} at step {best['step']}; "
        f"always the commonest {'answer' if completes else 'label'} "
        f"{content['data']['majority_share']:.4f}",
    )
    if metrics["test"]:
        test = metrics["test"]
        table.add_row(f"test {kind}", f"{test['accuracy']:.4f} ({_others(test)})")
    for phase, of_phase in times.items():
        if of_phase["steps"]:
            table.add_row(
                f"ms/step, {phase} phase",
                f"{of_phase['p50']:.1f} median, {of_phase['p10']:.1f} to {of_phase['p90']:.1f} "
                f"(10 % to 90 %), {of_phase['steps']} steps",
            )
    timing = content.get("timing")
    if timing:
        table.add_row("timed, interleaved", _timing_line(content, timing))
    if content.get("timing_error"):
        table.add_row("timing failed", escape(content["timing_error"]))
    layers = content["sparsity"]["layers"]
    realised = content["sparsity"]["realised_mean"]
    by_layer = " ".join(f"{layer['realised_sparsity']:.3f}" for layer in layers)
    table.add_row("realised sparsity", f"{realised:.3f} mean; by layer {by_layer or 'none'}")
    shares = {
        name: sum(layer.get(key, 0.0) for layer in layers) / max(len(layers), 1)
        for name, key in (("query and key", "qk_sparsity"), ("value and output", "vo_sparsity"))
    }
    if any(shares.values()):
        text = ", ".join(f"{share:.3f} of {name}" for name, share in shares.items())
        table.add_row("attention left out", f"{text}, mean over layers")
    schedule = content.get("calibrated_schedule")
    if schedule:
        chosen = " ".join(f"{value:.3f}" for value in schedule["sparsities"])
        table.add_row("calibrated schedule", f"{chosen}, by the error curves below")
    parameters = content["parameters"]
    share = parameters["trained"] / parameters["total"]
    table.add_row("trained parameters", f"{parameters['trained']:,} ({share:.2%})")
    memory = content["peak_memory_mb"]
    table.add_row(
        "peak memory", "not reported by this system" if memory is None else f"{memory:,.0f} MB"
    )
    for name, text in input_rows(content):
        table.add_row(name, escape(text))
    table.add_row("record", escape(path))
    console.print(table)
    if schedule:
        console.print(curves_table(schedule))
    if content["config"]["model"]["random_init"]:
        console.print("Random weights: the speed is real, the accuracy means nothing.")


def _others(metrics: dict[str, Any]) -> str:
    names = {"f1": "F1", "loss": "loss"}
    return ", ".join(f"{names[name]} {metrics[name]:.4f}" for name in names if name in metrics)


def _timing_line(content: dict[str, Any], timing: dict[str, Any]) -> str:
    interval = formats.interval(timing["speedup_low"], timing["speedup_high"], "{:.3f}")
    line = (
        f"{timing['speedup']:.3f} {formats.SPEEDUP} ({interval}, {timing['rounds']} rounds); "
        f"{content['ms_per_step']:.1f} ms/step where stock takes "
        f"{content['dense_reference_ms']:.1f}; the whole run {content['run_speedup']:.2f} ×"
    )
    if timing["own_speedup"] is not None:
        line += f"; {timing['efficiency']:.0%} of the bound of {timing['bound']:.2f} ×"
    if not timing["stable"]:
        control = formats.interval(timing["aa_low"], timing["aa_high"], "{:.3f}")
        line += f"; unstable: stock against itself {control}"
    return line


def input_rows(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each row on what a run was given: its examples, what is odd.

    Args:
        content: of a record; older ones do not say why examples were left out, nor what is odd.
    """
    data = content["data"]
    rows = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    dropped = data.get("dropped") or {}
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    left_out = f"; {data['dropped_rows']:,} left out" if data["dropped_rows"] else ""
    yield "rows", f"{rows}{left_out}{f' ({reasons})' if reasons else ''}"
    for note in [*data.get("notes", ()), *content.get("model", {}).get("notes", ())]:
        yield "note", note


def curves_table(schedule: Mapping[str, Any]) -> Table:
    """Return the error that each layer's sparsity causes, level by level, and what was chosen."""
    table = Table(title="Relative squared error of the model's output, one layer sparse at a time")
    table.add_column("layer")
    for level in schedule["levels"][1:]:
        table.add_column(f"{level:g}", justify="right")
    table.add_column("chosen", justify="right", style="bold")
    for index, errors in enumerate(schedule["errors"]):
        cells = [f"{error:.4f}" for error in errors[1:]]
        table.add_row(str(index), *cells, f"{schedule['sparsities'][index]:.3f}")
    return table
