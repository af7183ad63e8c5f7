"""Draw a run's course: accuracy and loss by step."""

from pathlib import Path

import altair as alt
import pandas as pd

from sparselora.records.record import METRICS_NAME
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.charts.style import ACCURACY, PALETTE, Drawn, dicts

MAX_CURVES = 8
"""Settings in one plot of curves: as many as there are colours."""
_SMOOTHED_STEPS = 20


def accuracy_by_step(comparison: Comparison) -> Drawn | None:
    """Draw validation accuracy by step, of one run of each setting, and where sparsity goes on or off."""
    return _curves(comparison, "accuracy", ACCURACY)


def loss_by_step(comparison: Comparison) -> Drawn | None:
    """Draw smoothed training loss by step, of one run of each setting, and where sparsity switches."""
    return _curves(comparison, "loss", f"training loss, nats (mean of {_SMOOTHED_STEPS} steps)")


def _curves(comparison: Comparison, value: str, title: str) -> Drawn | None:
    curves, switches = [], []
    names = comparison.table.set_index("config")["setting"]
    first = comparison.runs[["setting", "seed", "folder", "evaluations"]]
    first = first.sort_values("seed").drop_duplicates("setting")
    order = {key: index for index, key in enumerate(comparison.table["config"])}
    for run in sorted(first.to_dict("records"), key=lambda row: order[row["setting"]])[:MAX_CURVES]:
        steps = _read_metrics(Path(run["folder"]))
        if steps is None:
            continue
        name = names[run["setting"]]
        changed = steps["phase"].ne(steps["phase"].shift()) & (steps.index > 0)
        switches += [
            {"setting": name, "step": row["step"], "to": row["phase"]}
            for row in steps[changed].to_dict("records")
        ]
        if value == "loss":
            smooth = steps["loss"].rolling(_SMOOTHED_STEPS, min_periods=1).mean()
            thinned = steps.assign(loss=smooth).iloc[:: max(len(steps) // 200, 1)]
            curves += [
                {"setting": name, "step": row["step"], value: row["loss"]}
                for row in thinned.to_dict("records")
            ]
        else:
            curves += [
                {"setting": name, "step": each["step"], value: each["accuracy"] * 100}
                for each in dicts(run["evaluations"])
                if all(isinstance(each.get(key), int | float) for key in ("step", "accuracy"))
            ]
    if not curves:
        return None
    color = alt.Color("setting:N").scale(range=list(PALETTE)).legend(labelLimit=260)
    x = alt.X("step:Q", title="optimizer step")
    lines = (
        alt.Chart(pd.DataFrame(curves))
        .mark_line(point=value == "accuracy")
        .encode(
            x=x,
            y=alt.Y(f"{value}:Q", title=title).scale(zero=False),
            color=color,
            tooltip=[
                alt.Tooltip("setting:N"),
                alt.Tooltip("step:Q"),
                alt.Tooltip(f"{value}:Q", format=".4f"),
            ],
        )
    )
    marks = alt.Chart(pd.DataFrame(switches, columns=["setting", "step", "to"]))
    rules = marks.mark_rule(strokeDash=[3, 3], opacity=0.7).encode(
        x=x,
        color=color,
        tooltip=[
            alt.Tooltip("setting:N"),
            alt.Tooltip("step:Q"),
            alt.Tooltip("to:N", title="from here"),
        ],
    )
    return alt.layer(rules, lines).properties(
        width=620, height=280, title="By step, one seed; dashed: sparsity goes on or off"
    )


def _read_metrics(folder: Path) -> pd.DataFrame | None:
    try:
        steps = pd.read_csv(folder / METRICS_NAME, usecols=["step", "phase", "loss"])
    except (OSError, ValueError):
        return None
    for name in ("step", "loss"):
        steps[name] = pd.to_numeric(steps[name], errors="coerce")
    return steps.dropna().reset_index(drop=True)
