"""Comparisons → charts: Vega-Lite, the same for PNG, SVG and the page.

Colours are those of Okabe & Ito (2008), which differ to every kind of colour vision; on the page the text
follows the reader's light or dark theme, files have a white ground.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from sparselora.records.record import METRICS_NAME
from sparselora.report.analysis.comparison import Comparison

PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#999999", "#F0E442"),
)
Drawn = alt.LayerChart | alt.FacetChart
Spec = dict[str, Any]
"""A chart in Vega-Lite."""
MAX_CURVES = 8
"""Settings in one plot of curves: as many as there are colours."""
MAX_ROWS = 60
"""Settings in a heat map: more cannot be read."""
_SMOOTHED_STEPS = 20
_MS = "ms per optimizer step (drift-corrected)"
_ACCURACY = "validation accuracy, %"


def charts(comparison: Comparison) -> dict[str, Spec]:
    """Name → chart, of those for which the runs hold the data."""
    made = {name: draw(comparison) for name, draw in _CHARTS.items()}
    return {
        name: chart.to_dict(validate=False) for name, chart in made.items() if chart is not None
    }


def accuracy_by_time(comparison: Comparison) -> Drawn | None:
    """Accuracy against ms/step with 95 % intervals; the front, plain LoRA and the named settings."""
    table = comparison.table.dropna(subset=["ms_per_step", "accuracy"]).copy()
    if table.empty or comparison.reference_ms is None:
        return None
    table = _percent(table, "accuracy", "accuracy_low", "accuracy_high")
    table["ms_low"] = comparison.reference_ms / table["speedup_high"]
    table["ms_high"] = comparison.reference_ms / table["speedup_low"]
    table["named"] = table["experiment"].fillna("")
    table["kind"] = table["estimator"].where(~table["is_dense"].astype(bool), "none (plain LoRA)")
    shown = [
        *("setting", "kind", "compensation", "named", "on_front", "seeds"),
        *("accuracy", "accuracy_low", "accuracy_high", "ms_per_step", "ms_low", "ms_high"),
        *("speedup", "delta_points", "run_speedup", "efficiency"),
    ]
    base = alt.Chart(table[shown])
    x = alt.X("ms_per_step:Q", title=_MS).scale(zero=False, padding=20)
    y = alt.Y("accuracy:Q", title=_ACCURACY).scale(zero=False, padding=20)
    kind = alt.Color("kind:N", title="estimator").scale(range=list(PALETTE))
    stock = alt.Chart(pd.DataFrame({"x": [comparison.reference_ms]})).mark_rule(
        strokeDash=[5, 4], color="#888888"
    )
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x,
        y=y,
        color=kind,
        shape=alt.Shape("compensation:N", title="compensation"),
        tooltip=[
            alt.Tooltip("setting:N"),
            alt.Tooltip("accuracy:Q", format=".2f", title="accuracy, %"),
            alt.Tooltip("delta_points:Q", format="+.2f", title="points to plain LoRA"),
            alt.Tooltip("ms_per_step:Q", format=".1f", title="ms/step"),
            alt.Tooltip("speedup:Q", format=".3f", title="× stock LoRA"),
            alt.Tooltip("run_speedup:Q", format=".2f", title="whole run ×"),
            alt.Tooltip("efficiency:Q", format=".0%", title="of the bound"),
            alt.Tooltip("seeds:Q"),
        ],
    )
    front = base.transform_filter("datum.on_front").mark_line(
        interpolate="step-after", color="#888888", strokeWidth=1.5
    )
    moves = alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]")
    return alt.layer(
        stock.encode(x=alt.X("x:Q"), tooltip=alt.value("stock PEFT LoRA")),
        front.encode(x=x, y=y, order=alt.Order("ms_per_step:Q")),
        base.mark_rule(opacity=0.6).encode(
            x=alt.X("ms_low:Q"), x2=alt.X2("ms_high:Q"), y=y, color=kind
        ),
        base.transform_filter("isValid(datum.accuracy_low)")
        .mark_rule(opacity=0.6)
        .encode(x=x, y=alt.Y("accuracy_low:Q"), y2=alt.Y2("accuracy_high:Q"), color=kind),
        points.add_params(moves),
        base.mark_text(align="left", dx=9, dy=-9, fontWeight="bold").encode(
            x=x, y=y, text=alt.Text("named:N")
        ),
    ).properties(
        width=620, height=380, title="Accuracy against time; bars: 95 %; dashed: stock LoRA"
    )


def speedup_by_bound(comparison: Comparison) -> Drawn | None:
    """Our dense over sparse against what the FLOPs allow; on the diagonal the bound is reached."""
    table = comparison.table.dropna(subset=["bound", "efficiency"]).copy()
    table = table[~table["is_dense"].astype(bool)]
    if table.empty:
        return None
    table["own_speedup"] = table["bound"] * table["efficiency"]
    ends = [1.0, float(table[["bound", "own_speedup"]].max().max()) * 1.02]
    diagonal = alt.Chart(pd.DataFrame({"bound": ends, "own_speedup": ends}))
    x = alt.X("bound:Q", title="speed-up that the FLOPs allow, ×").scale(zero=False)
    y = alt.Y("own_speedup:Q", title="our dense path over the sparse one, ×").scale(zero=False)
    points = alt.Chart(table[["setting", "bound", "own_speedup", "efficiency", "estimator"]])
    return alt.layer(
        diagonal.mark_line(strokeDash=[5, 4], color="#888888").encode(x=x, y=y),
        points.mark_point(filled=True, size=90, opacity=1).encode(
            x=x,
            y=y,
            color=alt.Color("estimator:N").scale(range=list(PALETTE)),
            tooltip=[
                alt.Tooltip("setting:N"),
                alt.Tooltip("efficiency:Q", format=".0%", title="of the bound"),
            ],
        ),
    ).properties(width=620, height=300, title="How near the bound (the dashed diagonal)")


def sparsity_by_layer(comparison: Comparison) -> Drawn | None:
    """Realised sparsity of each layer, a row a setting."""
    rows = []
    names = comparison.table.set_index("config")["setting"]
    last = comparison.runs[["setting", "layers"]].drop_duplicates("setting", keep="last")
    for run in last.to_dict("records"):
        for index, layer in enumerate(_dicts(run["layers"])):
            realised = layer.get("realised_sparsity")
            rows.append({"setting": names[run["setting"]], "layer": index, "sparsity": realised})
    table = pd.DataFrame(rows, columns=["setting", "layer", "sparsity"])
    table["sparsity"] = pd.to_numeric(table["sparsity"], errors="coerce")
    table = table.dropna()
    if table.empty:
        return None
    order = [name for name in comparison.table["setting"] if name in set(table["setting"])]
    order = order[:MAX_ROWS]
    table = table[table["setting"].isin(order)]
    return _heat_map(
        table,
        alt.X("layer:O", title="layer, 0 is the first").axis(labelAngle=0),
        alt.Y("setting:N", title=None, sort=order).axis(labelLimit=260),
        alt.Color("sparsity:Q", title="left out").scale(scheme="blues", domain=[0, 1]),
        alt.Text("sparsity:Q", format=".2f"),
        "datum.sparsity > 0.6",
    ).properties(
        width=620, height=max(60, 26 * len(order)), title="Share of FFN channels left out, counted"
    )


def accuracy_by_rank_and_sparsity(comparison: Comparison) -> Drawn | None:
    """Heat map of accuracy over `svd_rank` and `ffn_sparsity`."""
    return _grid(comparison, "accuracy", _ACCURACY, ".2f", scale=100.0)


def speedup_by_rank_and_sparsity(comparison: Comparison) -> Drawn | None:
    """Heat map of the speed-up over `svd_rank` and `ffn_sparsity`."""
    return _grid(comparison, "speedup", "× stock LoRA", ".2f")


def _grid(
    comparison: Comparison, value: str, title: str, form: str, scale: float = 1.0
) -> Drawn | None:
    table = comparison.table.dropna(subset=["svd_rank", "ffn_sparsity", value])
    table = table[table["experiment"].isna() & ~table["is_dense"].astype(bool)]
    kinds = table.groupby(["schedule", "estimator", "compensation"], dropna=False)
    if table.empty:
        return None
    # One schedule and estimator: those with the most cells, so that a cell is one setting.
    kind, table = max(kinds, key=lambda each: len(each[1].drop_duplicates(_AXES)))
    table = table.drop_duplicates(_AXES)[[*_AXES, value, "setting"]].copy()
    if any(table[axis].nunique() < 2 for axis in _AXES):
        return None
    table[value] *= scale
    middle = float((table[value].max() + table[value].min()) / 2)
    return _heat_map(
        table,
        alt.X("ffn_sparsity:O", title="ffn_sparsity, share left out").axis(labelAngle=0),
        alt.Y("svd_rank:O", title="svd_rank"),
        alt.Color(f"{value}:Q", title=title).scale(scheme="viridis"),
        alt.Text(f"{value}:Q", format=form),
        f"datum.{value} < {middle}",
    ).properties(width=420, height=160, title=f"{title}; {', '.join(map(str, kind))}")


_AXES = ["svd_rank", "ffn_sparsity"]


def _heat_map(
    table: pd.DataFrame, x: alt.X, y: alt.Y, color: alt.Color, text: alt.Text, dark_cell: str
) -> Drawn:
    base = alt.Chart(table).encode(x=x, y=y)
    ink = alt.condition(dark_cell, alt.value("white"), alt.value("black"))
    return alt.layer(
        base.mark_rect().encode(color=color, tooltip=[alt.Tooltip("setting:N"), text]),
        base.mark_text().encode(text=text, color=ink),
    )


def accuracy_by_step(comparison: Comparison) -> Drawn | None:
    """Validation accuracy by step, one run a setting; rules mark where sparsity goes on or off."""
    return _curves(comparison, "accuracy", _ACCURACY)


def loss_by_step(comparison: Comparison) -> Drawn | None:
    """Training loss by step, smoothed, one run a setting, and where sparsity goes on or off."""
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
                for each in _dicts(run["evaluations"])
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


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def importance(importances: dict[str, dict[str, float]]) -> Spec:
    """Objective → parameter → share, as `optuna.importance` gives it."""
    rows = [
        {"objective": objective, "parameter": name, "importance": share}
        for objective, shares in importances.items()
        for name, share in shares.items()
    ]
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_bar()
        .encode(
            x=alt.X("importance:Q", title="share of the variation that it explains"),
            y=alt.Y("parameter:N", title=None, sort="-x"),
            yOffset=alt.YOffset("objective:N"),
            color=alt.Color("objective:N").scale(range=list(PALETTE)),
            tooltip=[
                alt.Tooltip("objective:N"),
                alt.Tooltip("parameter:N"),
                alt.Tooltip("importance:Q", format=".2f"),
            ],
        )
        .properties(width=620, title="What the objectives depend on (fANOVA)")
    )
    drawn: Spec = chart.to_dict(validate=False)
    return drawn


def _percent(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return table.assign(**{name: table[name].astype("float64") * 100 for name in columns})


# Channels are spelled out (`alt.X("x:Q")`, not "x:Q"): Altair guesses a bare text's class slowly.
# A point a setting: Altair's own limit of 5,000 rows guards notebooks, not files.
alt.data_transformers.disable_max_rows()
_CHARTS: dict[str, Callable[[Comparison], Any]] = {
    "accuracy_by_time": accuracy_by_time,
    "speedup_by_bound": speedup_by_bound,
    "sparsity_by_layer": sparsity_by_layer,
    "accuracy_by_rank_and_sparsity": accuracy_by_rank_and_sparsity,
    "speedup_by_rank_and_sparsity": speedup_by_rank_and_sparsity,
    "accuracy_by_step": accuracy_by_step,
    "loss_by_step": loss_by_step,
}
NAMES = (*_CHARTS, "importance")
"""Of all charts there are."""
