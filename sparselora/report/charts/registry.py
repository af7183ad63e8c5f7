"""List all charts of a comparison, by name: Vega-Lite, the same for PNG, SVG and the page."""

from collections.abc import Callable
from typing import Any

from sparselora.report.analysis.comparison import Comparison
from sparselora.report.charts import curves, heat_maps, tradeoff
from sparselora.report.charts.style import Spec

_CHARTS: dict[str, Callable[[Comparison], Any]] = {
    "accuracy_by_time": tradeoff.accuracy_by_time,
    "speedup_by_bound": tradeoff.speedup_by_bound,
    "sparsity_by_layer": heat_maps.sparsity_by_layer,
    "accuracy_by_rank_and_sparsity": heat_maps.accuracy_by_rank_and_sparsity,
    "speedup_by_rank_and_sparsity": heat_maps.speedup_by_rank_and_sparsity,
    "accuracy_by_step": curves.accuracy_by_step,
    "loss_by_step": curves.loss_by_step,
}
NAMES = (*_CHARTS, "importance")
"""Of all charts there are."""


def charts(comparison: Comparison) -> dict[str, Spec]:
    """Draw the charts for which the runs hold the data, by name."""
    made = {name: draw(comparison) for name, draw in _CHARTS.items()}
    return {
        name: chart.to_dict(validate=False) for name, chart in made.items() if chart is not None
    }
