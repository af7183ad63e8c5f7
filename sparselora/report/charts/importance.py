"""Draw what a study's objectives depend on."""

import altair as alt
import pandas as pd

from sparselora.report.charts.style import PALETTE, Spec


def importance(importances: dict[str, dict[str, float]]) -> Spec:
    """Draw each parameter's share, by objective, as `optuna.importance` gives it."""
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
