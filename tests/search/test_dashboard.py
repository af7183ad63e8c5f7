"""The dashboard of Optuna, in Debian's Chromium, over a study of ours.

    SPARSELORA_STUDY=sqlite:///outputs/study.db python -m pytest tests/search/test_dashboard.py

takes the picture in `docs/` anew, of that study.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from sparselora.paths import PACKAGE
from sparselora.search.study.attributes import LABEL
from sparselora.search.study.outcome import Outcome
from sparselora.search.study.plan import Plan
from sparselora.search.study.storage import Storage
from sparselora.search.study.study import SharedStudy
from tests.report.rendering.test_page import CHROMIUM
from tests.search.test_workers import free_port

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install Debian's package `chromium`"
)
KEPT = os.environ.get("SPARSELORA_STUDY")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    if KEPT:
        return KEPT
    url = f"sqlite:///{tmp_path / 'study.db'}"
    plan = Plan(
        "tradeoff",
        ["accuracy", "ms_per_step"],
        8,
        ["dense", "original"],
        1,
        optuna.samplers.RandomSampler,
    )
    study = SharedStudy(Storage(url), plan)
    with study.storage.locked():
        for number in range(8):
            trial = study.ask()
            assert trial is not None
            trial.suggest_float("ffn_sparsity", 0, 1)
            trial.set_user_attr(LABEL, trial.user_attrs.get("named", f"drawn {number}"))
            attributes = {"speedup": 1 + number / 10}
            study.tell(number, Outcome([0.8 - number / 100, 90.0 - number], None, attributes))
    return url


@pytest.fixture
def dashboard(storage: str) -> Iterator[str]:
    port = free_port()
    program = Path(sys.executable).parent / "optuna-dashboard"
    process = subprocess.Popen([str(program), storage, "--port", str(port), "--quiet"])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api/studies", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_it_shows_the_study_and_its_front(dashboard: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": 1300, "height": 1000})
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{dashboard}/dashboard/")
        page.get_by_text("tradeoff").first.click()
        page.get_by_text("Pareto").first.wait_for()
        page.wait_for_selector(".plotly, .js-plotly-plot")
        page.wait_for_timeout(1500)  # plots grow into place
        docs = PACKAGE.parent / "docs" / "dashboard.png"
        page.screenshot(path=docs if KEPT else tmp_path / "dashboard.png")
        shown = page.content()
        page.goto(page.url.rstrip("/") + "/trials")
        page.get_by_text("dense").first.wait_for()  # its label, among the user attributes
        browser.close()
    assert "accuracy" in shown
    assert complaints == []
