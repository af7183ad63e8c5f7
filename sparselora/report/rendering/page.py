"""Render all comparisons as one HTML page that needs no network.

The charts' JavaScript (Vega, Vega-Lite, vega-embed) is part of the page. Whatever comes out of configs is
escaped by the template, and in the embedded JSON `<`, `>`, `&` and `'` are written as escapes.
"""

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from sparselora.paths import cache_folder
from sparselora.records.files import write_atomically
from sparselora.report import formats
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.analysis.verdict import headline
from sparselora.report.charts.style import Spec
from sparselora.report.rendering.pictures import LANGUAGE

_COLUMNS: dict[str, tuple[str, str, str]] = {
    "setting": ("setting", "{}", ""),
    "seeds": ("seeds", "{:.0f}", ""),
    "accuracy": (
        "accuracy, %",
        "{:.2f}",
        "mean over seeds; bold: the best with 3 seeds",
    ),
    "delta_points": (formats.POINTS, "{:+.2f}", "paired by seed"),
    "delta_interval": (formats.INTERVAL, "{}", "over groups and seeds; from 3 seeds on"),
    "as_good_as_best": ("≈ best", "{}", "whether the data cannot tell it from the most accurate"),
    "ms_per_step": (formats.MS, "{:.1f}", "drift-corrected"),
    "speedup": (formats.SPEEDUP, "{:.3f}", "speed-up: stock PEFT LoRA's step over this one"),
    "speedup_interval": (formats.INTERVAL, "{}", ""),
    "run_speedup": (formats.RUN_SPEEDUP, "{:.2f}", "speed-up of the whole run"),
    "bound": (formats.BOUND, "{:.2f}", "speed-up that the FLOPs allow"),
    "efficiency": (formats.OF_BOUND, "{:.0%}", "our dense over sparse, over the bound"),
    "step_memory_mb": ("step, MB", "{:,.0f}", "peak memory of one step"),
    "realised_sparsity": ("sparsity", "{:.3f}", "share left out, counted"),
    "gflops": ("GFLOPs", "{:.1f}", "a mean step"),
}


def page(
    comparisons: Sequence[tuple[Comparison, Mapping[str, Spec]]],
    records: pd.DataFrame,
    problems: pd.DataFrame,
    sources: Sequence[str],
    study: pd.DataFrame | None = None,
    importance: Spec | None = None,
) -> str:
    """Write one HTML page: verdicts, charts, tables, and where they come from.

    Args:
        comparisons: each with its charts.
        records: all that were loaded.
        problems: those among them that cannot be used, or not wholly.
        sources: where they were loaded from.
        study: trials of a study, as `load_study` gives them.
        importance: chart of its parameters' importance.
    """
    sections = [_section(*each, index) for index, each in enumerate(comparisons)]
    charts = {key: chart for section in sections for key, chart in section["charts"].items()}
    importance_title = ""
    if importance is not None:
        importance_title = importance["title"]
        charts["importance"] = _on_page(importance)
    settings = {
        f"{index}:{row['setting']}": {
            "command": row["command"] or "unknown: the record does not hold its overrides",
            "config": json.loads(row["config"]),
        }
        for index, (comparison, _) in enumerate(comparisons)
        for row in comparison.table.to_dict("records")
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparselora.report.rendering", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        sources=sources,
        sections=sections,
        charts=charts,
        settings=settings,
        columns=_COLUMNS,
        counts=records["status"].fillna("no status").value_counts().to_dict(),
        problems=problems.to_dict("records"),
        study=None if study is None else _cells(study),
        importance_title=importance_title,
        provenance=_provenance(records),
        random_weights=bool(records["random_weights"].fillna(False).any()),
        # Its own code, not data: it must not be escaped.
        javascript=Markup(vega()),
    )


def _section(comparison: Comparison, made: Mapping[str, Spec], index: int) -> dict[str, Any]:
    table = comparison.table
    return {
        "index": index,
        "title": comparison.title,
        "headline": headline(comparison),
        "shared": json.dumps(comparison.shared, indent=1),
        "reference_ms": comparison.reference_ms,
        "rows": [_table_row(row) for row in table.to_dict("records")],
        "charts": {f"{name}-{index}": _on_page(chart) for name, chart in made.items()},
        "figures": [(f"{name}-{index}", chart["title"]) for name, chart in made.items()],
    }


def _table_row(row: dict[Any, Any]) -> dict[str, Any]:
    row = dict(row)
    row["accuracy"] = row["accuracy"] * 100
    row["delta_interval"] = formats.interval(row["delta_low"], row["delta_high"], "{:+.2f}")
    row["speedup_interval"] = formats.interval(row["speedup_low"], row["speedup_high"], "{:.3f}")
    alike = row["as_good_as_best"]
    row["as_good_as_best"] = None if pd.isna(alike) else "yes" if alike else "no"
    cells = []
    for name, (_, form, _) in _COLUMNS.items():
        value = row[name]
        text = formats.cell(value, form)
        if name.endswith("_interval"):
            value = row[name.replace("_interval", "_low")]
        number = text != formats.MISSING and not isinstance(value, str)
        cells.append({"text": text, "order": repr(float(value)) if number else ""})
    return {
        "setting": row["setting"],
        "cells": cells,
        "best": bool(row["is_best"]),
        "dense": bool(row["is_dense"]),
        "unstable": int(row["unstable"]),
    }


def _on_page(chart: Spec) -> Spec:
    # The page sets the title as a heading, which a narrow screen can break.
    return {key: value for key, value in chart.items() if key != "title"} | {"width": "container"}


def _cells(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}


def _cell(value: Any) -> dict[str, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not formats.is_missing(value):
        return {"text": f"{value:.6g}", "order": repr(float(value))}
    return {"text": formats.cell(value), "order": ""}


def _provenance(records: pd.DataFrame) -> list[dict[str, str]]:
    kept = records[["commit", "device", "host", "threads", "started"]].astype("string")
    groups = kept.fillna("unknown").groupby(["commit", "device", "host", "threads"])["started"]
    return [
        {
            "commit": str(commit),
            "device": str(device),
            "host": str(host),
            "threads": str(threads),
            "runs": str(len(started)),
            "from": str(started.min()),
            "to": str(started.max()),
        }
        for (commit, device, host, threads), started in groups
    ]


@functools.cache
def vega() -> str:
    """Return the JavaScript that draws the charts on a page.

    Making it takes two seconds, so it is kept in the user's cache folder.
    """
    version = f"{metadata.version('vl-convert-python')}-{LANGUAGE}"
    path = cache_folder() / f"vega-{version}.js"
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    # A script ends at the first `</script`, wherever it stands.
    bundle = str(vl_convert.javascript_bundle(vl_version=LANGUAGE))  # type: ignore[call-arg]
    code = bundle.replace("</script", "<\\/script")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(code, encoding="utf-8"))
    return code
