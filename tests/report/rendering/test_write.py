import html
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparselora import load_records
from sparselora.report.analysis.comparison import compare
from sparselora.report.loading.usable import problems
from sparselora.report.rendering.pictures import Renderer
from sparselora.report.rendering.write import write_report
from tests.report.synthetic import named_settings, run


def report(root: Path, out: Path) -> Path:
    records = load_records(root)
    with Renderer() as renderer:
        write_report(out, renderer, compare(records), records, problems(records), [str(root)])
    return out


def embedded(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def table_cells(page: str) -> dict[str, list[str]]:
    rows = re.findall(r"<tr data-setting=.*?</tr>", page, flags=re.S)
    cells = [re.findall(r"<td.*?</td>", row, flags=re.S) for row in rows]
    texts = [[html.unescape(re.sub(r"<.*?>", "", each)).strip() for each in row] for row in cells]
    return {row[0]: row[1:] for row in texts}


def test_every_file_is_there_and_whole(tmp_path: Path) -> None:
    named_settings(tmp_path / "runs")
    for index, (rank, share) in enumerate([(4, 0.5), (8, 0.5), (4, 0.7), (8, 0.7)]):
        run(tmp_path / "runs" / f"g{index}", f"r{rank} {share}", svd_rank=rank, ffn_sparsity=share)
    out = report(tmp_path / "runs", tmp_path / "out")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    plots = ["accuracy_by_time", "speedup_by_bound", "sparsity_by_layer", "accuracy_by_step"]
    plots += ["loss_by_step", "accuracy_by_rank_and_sparsity", "speedup_by_rank_and_sparsity"]
    assert names == {
        *("settings.csv", "settings.parquet", "settings.md", "settings.tex", "evaluation.md"),
        *("runs.csv", "problems.csv", "report.html"),
        *(f"plots/{name}.{form}" for name in plots for form in ("png", "svg")),
    }
    for path in (out / "plots").iterdir():
        head = path.read_bytes()[:8]
        assert head.startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")


def test_figures_agree_in_page_table_and_records(tmp_path: Path) -> None:
    out = report(named_settings(tmp_path / "runs"), tmp_path / "out")
    csv = pd.read_csv(out / "settings.csv").set_index("setting")
    parquet = pd.read_parquet(out / "settings.parquet").set_index("setting")
    page = (out / "report.html").read_text()
    cells = table_cells(page)
    points = {
        point["setting"]: point
        for chart in embedded(page, "charts").values()
        for rows in chart["datasets"].values()
        for point in rows
        if "accuracy_low" in point
    }
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("record.json")]
    for label in csv.index:
        ours = [each for each in records if each["label"] == label]
        mean = sum(each["metrics"]["validation"]["accuracy"] for each in ours) / len(ours)
        speedup = ours[0]["timing"]["speedup"]
        assert csv.loc[label, "accuracy"] == pytest.approx(mean)
        assert parquet.loc[label, "accuracy"] == pytest.approx(mean)
        assert cells[label][1] == f"{mean * 100:.2f}"
        assert cells[label][6] == f"{speedup:.3f}"
        assert points[label]["accuracy"] == pytest.approx(mean * 100)
        assert points[label]["speedup"] == pytest.approx(speedup)
        assert points[label]["ms_per_step"] == pytest.approx(ours[0]["ms_per_step"])
    assert csv.loc["optimized", "delta_low"] == pytest.approx(
        float(cells["optimized"][3].split(" to ")[0]), abs=0.005
    )


def test_names_from_configs_are_escaped_everywhere(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    for seed in (1, 2, 3):
        folder = run(tmp_path / "runs" / f"<b>{seed}", evil, seed, overrides=[f"tags=[{evil}]"])
        record = json.loads((folder / "record.json").read_text())
        record["config"]["tags"] = [evil]
        record["config"]["model"]["name"] = evil
        record["provenance"]["device"] = evil
        (folder / "record.json").write_text(json.dumps(record))
    (tmp_path / "runs" / evil.replace("/", "")).mkdir()
    (tmp_path / "runs" / evil.replace("/", "") / "record.json").write_text("{")
    page = (report(tmp_path / "runs", tmp_path / "out") / "report.html").read_text()
    assert "alert(1)</script>" not in page
    assert "<script>alert" not in page
    assert page.count("<script") == 4
    assert page.count("</script>") == 4
    setting = next(iter(embedded(page, "settings").values()))
    assert evil in setting["command"]


def test_markdown_and_latex_cells_cannot_break_their_tables(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "a", "one | two & three_%$#")
    out = report(tmp_path / "runs", tmp_path / "out")
    line = next(
        line for line in (out / "settings.md").read_text().splitlines() if line.startswith("| one")
    )
    assert "one \\| two &amp; three" in line
    assert r"one | two \& three\_\%\$\#" in (out / "settings.tex").read_text()


def test_no_network_is_asked_for(tmp_path: Path) -> None:
    page = (report(named_settings(tmp_path / "runs"), tmp_path / "out") / "report.html").read_text()
    own = page.replace(re.search(r"<script>(?!\n).*?</script>", page, flags=re.S)[0], "")  # type: ignore[index]
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", own)
    assert "@import" not in own


def test_what_an_earlier_report_left_is_gone(tmp_path: Path) -> None:
    out = report(named_settings(tmp_path / "runs"), tmp_path / "out")
    (out / "mine.txt").write_text("kept")
    (out / "plots" / "mine.png").write_text("kept")
    run(tmp_path / "failed" / "a", status="failed")
    report(tmp_path / "failed", out)
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert "evaluation.md" not in left
    assert "accuracy_by_time.svg" not in left
    assert {"mine.txt", "mine.png", "report.html"} <= left


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluations": [{"step": 1}, {"step": 1, "accuracy": None}, 5]},
        {"evaluations": {"a": 1}},
        {"sparsity": {"realised_mean": 0.5, "layers": ["a", {"realised_sparsity": "x"}]}},
        {"overrides": None},
        {"error": "\ud800"},
        {"config": [1]},
        {"provenance": None},
    ],
)
def test_an_odd_record_is_never_fatal(tmp_path: Path, changes: dict[str, Any]) -> None:
    named_settings(tmp_path / "runs", seeds=1)
    run(tmp_path / "runs" / "²", "odd", 1, experiment="", **changes)
    (tmp_path / "runs" / "²" / "metrics.csv").write_text(
        "step,phase,loss\n1,dense,0.6\n2,sparse,0.6x\n"
    )
    (tmp_path / "runs" / "deep").mkdir()
    (tmp_path / "runs" / "deep" / "record.json").write_text("[" * 200_000)
    out = report(tmp_path / "runs", tmp_path / "out")
    assert json.loads(json.dumps(embedded((out / "report.html").read_text(), "settings")))


def test_numbers_that_are_no_json_are_missing(tmp_path: Path) -> None:
    folder = run(tmp_path / "runs" / "a")
    text = (folder / "record.json").read_text()
    (folder / "record.json").write_text(text.replace('"tags"', '"odd": NaN, "tags"'))
    page = (report(tmp_path / "runs", tmp_path / "out") / "report.html").read_text()
    (setting,) = embedded(page, "settings").values()
    assert setting["config"]["odd"] is None


def test_many_settings_are_drawn(tmp_path: Path) -> None:
    layers = [{"realised_sparsity": 0.5}] * 100
    for index in range(70):
        run(
            tmp_path / "runs" / f"{index}",
            f"s{index}",
            ffn_sparsity=index / 100,
            sparsity={"realised_mean": 0.5, "layers": layers},
            predictions=False,
        )
    assert (report(tmp_path / "runs", tmp_path / "out") / "plots/sparsity_by_layer.svg").exists()
