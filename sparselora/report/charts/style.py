"""Hold what all charts have in common: types, colours, axis titles.

Colours are those of Okabe & Ito (2008), which differ to every kind of colour vision; on the page the text
follows the reader's light or dark theme, files have a white ground. Channels are spelled out
(`alt.X("x:Q")`, not "x:Q"): Altair guesses a bare text's class slowly.
"""

from typing import Any

import altair as alt

PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#999999", "#F0E442"),
)
Drawn = alt.LayerChart | alt.FacetChart
Spec = dict[str, Any]
"""A chart in Vega-Lite."""
ACCURACY = "validation accuracy, %"

# A point a setting: Altair's own limit of 5,000 rows guards notebooks, not files.
alt.data_transformers.disable_max_rows()


def dicts(value: Any) -> list[dict[str, Any]]:
    """Return the mappings in a list from a record; none where it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
