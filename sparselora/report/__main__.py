"""Run `python -m sparselora.report`: tables, plots and a page of what runs left."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from tqdm import tqdm

from sparselora import __version__
from sparselora.errors import UserError, refuse_in_a_line
from sparselora.report.analysis.comparison import Comparison, compare
from sparselora.report.analysis.verdict import describe, recommend
from sparselora.report.loading.load import load_records
from sparselora.report.loading.study import importances, is_url, load_study
from sparselora.report.loading.usable import problems
from sparselora.report.rendering.pictures import Renderer
from sparselora.report.rendering.terminal import print_comparison, print_problems, print_titles

_EPILOG = """examples:
  python -m sparselora.report outputs
  python -m sparselora.report outputs sqlite:///outputs/study.db
  python -m sparselora.report outputs --recommend max_drop=0.5
  python -m sparselora.report --compare outputs/multiruns/A outputs/multiruns/B"""


def main(arguments: list[str] | None = None) -> int:
    """Report, and return the exit code: 2, with one line, for a user's mistake."""
    parser = argparse.ArgumentParser(
        "sparselora-report",
        description="Tables, plots and a page (report.html) of what runs left.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sources", nargs="*", help="folders that runs wrote to; URLs of a study")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report's files; outputs/reports where it is not given",
    )
    parser.add_argument("--no-files", action="store_true", help="print the tables alone")
    parser.add_argument("--study", metavar="NAME", help="which study of the storage")
    parser.add_argument(
        "--recommend",
        metavar="max_drop=POINTS",
        help="print only the fastest setting shown to lose at most that many points of accuracy",
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="print two folders' settings side by side"
    )
    parser.add_argument("--version", action="version", version=f"sparselora {__version__}")
    refuse_in_a_line(parser)
    console = Console()
    try:
        options = parser.parse_intermixed_args(arguments)
        _check(options)
        if options.compare:
            return _compare(options.compare, console)
        return _report(options, console)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check(options: argparse.Namespace) -> None:
    """Refuse an option that has no effect beside the others."""
    if options.compare and (options.sources or options.recommend or options.study):
        raise UserError("--compare: takes two folders and no other source, --recommend or --study")
    prints = "--compare" if options.compare else "--recommend" if options.recommend else None
    if prints and (options.out or options.no_files):
        given = "--no-files" if options.no_files else f"--out {options.out}"
        raise UserError(f"{given}: without effect beside {prints}, which writes no file")
    if options.study and not any(map(is_url, options.sources)):
        raise UserError(f"--study {options.study}: give the URL of its storage as well")


def _report(options: argparse.Namespace, console: Console) -> int:
    sources: Sequence[str] = options.sources or ["outputs"]
    urls = [source for source in sources if is_url(source)]
    folders = [source for source in sources if not is_url(source)]
    if len(urls) > 1:
        raise UserError(f"{urls[1]}: one study at a time")
    drop = None if options.recommend is None else _max_drop(options.recommend)
    with contextlib.ExitStack() as stack:
        writes = drop is None and not options.no_files
        renderer = stack.enter_context(Renderer()) if writes else None
        records = load_records(*folders)
        study = load_study(urls[0], options.study, records) if urls else None
        if records.empty and study is None:
            place = ", ".join(folders)
            raise UserError(f"{place}: no record.json in it or below; run something first")
        comparisons = compare(records)
        unusable = _problems(records, comparisons)
        if drop is not None:
            _say_left_out(folders, records, unusable, console)
            return _recommend(comparisons, drop, console)
        if len(records):
            counts = records["status"].fillna("no status").value_counts()
            print_problems(unusable, counts, console)
        print_titles(comparisons, console)
        for comparison in comparisons:
            print_comparison(comparison, console)
        if study is not None:
            _print_study(study, console)
        if renderer is None:
            return 0
        from sparselora.report.rendering.write import write_report

        shares = importances(urls[0], options.study) if urls else None
        out: Path = options.out or Path("outputs/reports")
        bar = stack.enter_context(tqdm(desc="report", unit="file", leave=False))

        def on_file(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        write_report(out, renderer, comparisons, records, unusable, sources, study, shares, on_file)
    console.print(f"Page, tables and plots: {out / 'report.html'}", markup=False)
    return 0


def _problems(records: pd.DataFrame, comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return what is the matter with each record that is of no, or of limited, use."""
    parts = [problems(records), *(comparison.limited for comparison in comparisons)]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _say_left_out(
    folders: Sequence[str], records: pd.DataFrame, unusable: pd.DataFrame, console: Console
) -> None:
    if len(unusable):
        again = f"python -m sparselora.report {' '.join(folders)} --no-files"
        console.print(
            f"{unusable['folder'].nunique()} of {len(records)} records are of no, or of limited, use; "
            f"{again} says which",
            markup=False,
            soft_wrap=True,
        )


def _recommend(comparisons: Sequence[Comparison], drop: float, console: Console) -> int:
    if not comparisons:
        raise UserError("no completed run with an accuracy to recommend from")
    for comparison in comparisons:
        found = recommend(comparison, drop)
        console.print(comparison.title, style="bold", markup=False)
        if found.row is None:
            console.print(f"None: {found.reason}.", markup=False)
        else:
            console.print(describe(found.row), markup=False)
            again = found.row["command"] or "its record does not hold the overrides"
            console.print(again, markup=False, soft_wrap=True)
    return 0


def _print_study(study: pd.DataFrame, console: Console) -> None:
    states = ", ".join(f"{count} {state}" for state, count in study["state"].value_counts().items())
    console.print(f"study: {len(study)} trials: {states}", markup=False)


def _compare(sources: Sequence[str], console: Console) -> int:
    from sparselora.report.rendering.side_by_side import of_comparisons, print_side_by_side

    both = [load_records(source) for source in sources]
    compared = [compare(records) for records in both]
    frame = of_comparisons(*compared)
    if frame.empty:
        raise UserError(f"{sources[0]} and {sources[1]} hold no setting that both ran")
    print_side_by_side(frame, (sources[0], sources[1]), console)
    for name, source, records, comparisons in zip("AB", sources, both, compared, strict=True):
        alone = [row for each in comparisons for row in each.table["setting"]]
        alone = [setting for setting in alone if setting not in set(frame["setting"])]
        if alone:
            console.print(f"In {name} alone: {'; '.join(alone)}", markup=False, style="dim")
        _say_left_out([source], records, _problems(records, comparisons), console)
    return 0


def _max_drop(text: str) -> float:
    name, _, value = text.partition("=")
    try:
        points = float(value)
    except ValueError:
        points = -1.0
    if name != "max_drop" or not 0 <= points <= 100:
        raise UserError(f"--recommend {text}: max_drop=POINTS is allowed, 0 to 100")
    return points


if __name__ == "__main__":
    sys.exit(main())
