"""Write a report's files to one folder: tables in five formats, plots, `evaluation.md`, the page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparselora.records.files import write_atomically
from sparselora.report.analysis.comparison import Comparison
from sparselora.report.analysis.verdict import headline
from sparselora.report.charts import registry
from sparselora.report.charts.importance import importance
from sparselora.report.charts.style import Spec
from sparselora.report.rendering.escape import one_line, plain_markdown
from sparselora.report.rendering.evaluation import NAMED, evaluation
from sparselora.report.rendering.page import page
from sparselora.report.rendering.pictures import Renderer
from sparselora.report.rendering.terminal import COLUMNS, LEGEND, readable

_TEXTS = (
    *("settings.csv", "settings.md", "settings.tex", "runs.csv", "problems.csv"),
    *("study.csv", "evaluation.md", "report.html"),
)


def write_report(
    folder: Path,
    renderer: Renderer,
    comparisons: Sequence[Comparison],
    records: pd.DataFrame,
    problems: pd.DataFrame,
    sources: Sequence[str],
    study: pd.DataFrame | None = None,
    importances: dict[str, dict[str, float]] | None = None,
    on_file: Callable[[str], None] = lambda _: None,
) -> None:
    """Write every file whole, or not at all; what an earlier report left there is replaced.

    Args:
        folder: made where it is missing.
        renderer: of the plots; not used before.
        comparisons: what the tables and plots are of.
        records: all that were loaded, as `load_records` gives them.
        problems: those among them that are of no or limited use.
        sources: where they were loaded from.
        study: trials of a study, as `load_study` gives them.
        importances: what its objectives depend on, as `importances` gives them.
        on_file: is called with the name of each table before it is made, of each picture after.

    Raises:
        OSError: the folder cannot be written to, or a plot cannot be rendered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    charts = [registry.charts(comparison) for comparison in comparisons]
    drawn = list(zip(comparisons, charts, strict=True))
    by_importance = importance(importances) if importances else None
    pictures: dict[str, Spec] = {
        name if index == 0 else f"{name}-{index}": chart
        for index, of_one in enumerate(charts)
        for name, chart in of_one.items()
    }
    if by_importance is not None:
        pictures["importance"] = by_importance
    _remove_older(folder)
    (folder / "plots").mkdir(exist_ok=True)
    renderer.begin(folder / "plots", pictures)
    settings = settings_frame(comparisons)
    runs = records.drop(columns=["pairing"]).map(
        lambda value: str(value) if isinstance(value, list | dict) else value
    )
    texts: dict[str, Callable[[], str]] = {
        "settings.csv": lambda: settings.to_csv(index=False),
        "settings.md": lambda: "\n".join(markdown(each) for each in comparisons),
        "settings.tex": lambda: "\n".join(latex(each) for each in comparisons),
        "runs.csv": lambda: runs.to_csv(index=False),
        "problems.csv": lambda: problems.to_csv(index=False),
        "report.html": lambda: page(drawn, records, problems, sources, study, by_importance),
    }
    if study is not None:
        texts["study.csv"] = lambda: study.to_csv(index=False)
    named = max(comparisons, key=_named_settings, default=None)
    if named is not None and _named_settings(named):
        texts["evaluation.md"] = lambda: evaluation(named)
    for name, make in texts.items():
        on_file(name)
        write_atomically(folder / name, _writer(make()))
    on_file("settings.parquet")
    write_atomically(folder / "settings.parquet", lambda path: settings.to_parquet(path))
    for name in renderer.rendered():
        on_file(name)


def _named_settings(comparison: Comparison) -> int:
    return sum(comparison.named(name) is not None for name in NAMED)


def _remove_older(folder: Path) -> None:
    """Remove what a report before this one left, and nothing else."""
    for name in (*_TEXTS, "settings.parquet"):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "plots").glob("*"):
        if path.suffix in (".png", ".svg") and path.stem.split("-")[0] in registry.NAMES:
            path.unlink()


def _writer(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text, encoding="utf-8")


def settings_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Join all comparisons; model, data and device say which rows may be ranked together."""
    frames = [
        comparison.table.assign(
            model=comparison.model,
            data=comparison.data,
            device=comparison.device,
            dense_reference_ms=comparison.reference_ms,
            comparison=index,
        )
        for index, comparison in enumerate(comparisons)
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def markdown(comparison: Comparison) -> str:
    """Write a comparison in Markdown: a heading, the verdict and the table."""
    frame = _titled(comparison).map(plain_markdown)
    table = frame.to_markdown(index=False, disable_numparse=True)
    legend = f"\\{LEGEND}."
    title, verdict = plain_markdown(comparison.title), plain_markdown(headline(comparison))
    return f"## {title}\n\n{verdict}\n\n{table}\n\n{legend}\n"


def latex(comparison: Comparison) -> str:
    """Write a comparison as LaTeX's `tabular` with a caption; every special character is escaped."""
    frame = _titled(comparison).replace({"≈": "~=", "×": "x"}, regex=True)
    frame.columns = [name.replace("×", "x") for name in frame.columns]
    text = (
        frame.style.hide(axis="index")
        .format(escape="latex")
        .format_index(escape="latex", axis=1)
        .to_latex(hrules=True, column_format="l" + "r" * (frame.shape[1] - 1))
    )
    return f"% {one_line(comparison.title)}; * most accurate, ~= cannot be told from it\n{text}"


def _titled(comparison: Comparison) -> pd.DataFrame:
    return readable(comparison).rename(columns={key: title for key, (title, _) in COLUMNS.items()})
