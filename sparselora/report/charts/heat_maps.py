"""Draw heat maps: what each layer leaves out, and figures over rank and sparsity."""

import altair as alt
import pandas as pd

from sparselora.report import formats
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.charts.style import ACCURACY, Drawn, dicts

MAX_ROWS = 60
"""Settings in a heat map: more cannot be read."""
_AXES = ["svd_rank", "ffn_sparsity"]


def sparsity_by_layer(comparison: Comparison) -> Drawn | None:
    """Draw the realised sparsity of each layer, a row for each setting."""
    rows = []
    names = comparison.table.set_index("config")["setting"]
    last = comparison.runs[["setting", "layers"]].drop_duplicates("setting", keep="last")
    for run in last.to_dict("records"):
        for index, layer in enumerate(dicts(run["layers"])):
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
    """Draw accuracy over `svd_rank` and `ffn_sparsity`."""
    return _grid(comparison, "accuracy", ACCURACY, ".2f", scale=100.0)


def speedup_by_rank_and_sparsity(comparison: Comparison) -> Drawn | None:
    """Draw the speed-up over `svd_rank` and `ffn_sparsity`."""
    return _grid(comparison, "speedup", formats.SPEEDUP, ".2f")


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


def _heat_map(
    table: pd.DataFrame, x: alt.X, y: alt.Y, color: alt.Color, text: alt.Text, dark_cell: str
) -> Drawn:
    base = alt.Chart(table).encode(x=x, y=y)
    ink = alt.condition(dark_cell, alt.value("white"), alt.value("black"))
    return alt.layer(
        base.mark_rect().encode(color=color, tooltip=[alt.Tooltip("setting:N"), text]),
        base.mark_text().encode(text=text, color=ink),
    )
