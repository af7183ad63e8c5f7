"""Draw what a setting costs and gains: accuracy against time, speed-up against its bound."""

import altair as alt
import pandas as pd

from sparselora.report import formats
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.charts.style import ACCURACY, PALETTE, Drawn

_MS = "ms per optimizer step (drift-corrected)"


def accuracy_by_time(comparison: Comparison) -> Drawn | None:
    """Draw accuracy against ms/step with 95 % intervals, and the front; named settings by name."""
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
    y = alt.Y("accuracy:Q", title=ACCURACY).scale(zero=False, padding=20)
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
            alt.Tooltip("delta_points:Q", format="+.2f", title=formats.POINTS),
            alt.Tooltip("ms_per_step:Q", format=".1f", title=formats.MS),
            alt.Tooltip("speedup:Q", format=".3f", title=formats.SPEEDUP),
            alt.Tooltip("run_speedup:Q", format=".2f", title=formats.RUN_SPEEDUP),
            alt.Tooltip("efficiency:Q", format=".0%", title=formats.OF_BOUND),
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
    """Draw our dense over sparse against what the FLOPs allow; on the diagonal it is reached."""
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
                alt.Tooltip("efficiency:Q", format=".0%", title=formats.OF_BOUND),
            ],
        ),
    ).properties(width=620, height=300, title="How near the bound (the dashed diagonal)")


def _percent(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return table.assign(**{name: table[name].astype("float64") * 100 for name in columns})
