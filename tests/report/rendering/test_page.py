"""The page in a real browser: Debian's Chromium, without a network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.rendering.test_write import report
from tests.report.synthetic import named_settings, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install Debian's package `chromium`"
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    named_settings(root / "runs")
    run(root / "runs" / "other", "<i>slow</i>", speedup=1.2, timed=True)
    return report(root / "runs", root / "out") / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium starts only without its sandbox; the page is our own.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 900}, offline=True)
    opened = context.new_page()
    opened.complaints = []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            opened.complaints.append(request.url)
            if not request.url.startswith(("file:", "data:"))
            else None
        ),
    )
    opened.goto(page_file.as_uri())
    opened.wait_for_selector(".chart svg")
    yield opened
    context.close()


def first_column(page: Any) -> list[str]:
    cells = page.locator("table.sorts").first.locator("tbody tr:not([hidden]) button.pick")
    return [str(text) for text in cells.all_text_contents()]


def test_loads_without_a_complaint_or_a_request(page: Any) -> None:
    page.wait_for_timeout(300)
    assert page.complaints == []
    assert page.locator(".chart svg").count() == page.locator(".chart").count() > 3
    assert "× the speed of stock LoRA" in page.locator("#answer-0").text_content()
    assert page.locator("i", has_text="slow").count() == 0  # escaped, not markup


def test_sorts_by_click_and_by_keyboard(page: Any) -> None:
    accuracy = page.get_by_role("button", name="accuracy, %").first
    accuracy.click()
    assert first_column(page)[-1] == "dense"
    assert first_column(page)[0] == "optimized"
    accuracy.focus()
    page.keyboard.press("Enter")
    assert first_column(page)[0] == "dense"
    head = page.locator("th[aria-sort=descending]")
    assert head.count() == 1
    # Intervals go by their lower end, as numbers.
    page.get_by_role("button", name="95 %").first.click()
    assert first_column(page)[:2] == ["optimized", "fallback"]
    # What is missing stays last in either direction.
    points = page.get_by_role("button", name="points to LoRA")
    for _ in range(2):
        points.click()
        assert first_column(page)[-1] == "dense"


def test_filters(page: Any) -> None:
    everything = first_column(page)
    page.get_by_role("searchbox").first.fill("FALL")
    assert first_column(page) == ["fallback"]
    page.get_by_role("searchbox").first.fill("")
    assert first_column(page) == everything


def test_the_keyboard_opens_a_settings_command_and_config(page: Any) -> None:
    page.locator("button.pick", has_text="fallback").focus()
    page.keyboard.press("Enter")
    panel = page.locator("#detail-0")
    assert (
        panel.locator("pre.command")
        .text_content()
        .startswith("python -m sparselora.run experiment=fallback seed=")
    )
    config = json.loads(panel.locator("details pre").text_content())
    assert config["tags" if "tags" in config else "model"]
    assert page.locator("tr[aria-current=true]").count() == 1


def test_a_click_on_a_point_opens_it_and_hover_shows_it(page: Any) -> None:
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    points = chart.locator("path[aria-roledescription=point]")
    assert points.count() == 4
    label = points.first.get_attribute("aria-label")
    points.first.hover()
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert "ms/step" in tip.text_content()
    setting = tip.locator("tr", has_text="setting").locator("td.value").text_content()
    assert setting in label
    points.first.click()
    assert page.locator("#detail-0 strong").text_content() == setting


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_follows_the_theme(browser: Any, page_file: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(page_file.as_uri())
    opened.wait_for_selector(".chart svg")
    opened.wait_for_timeout(300)
    width = opened.evaluate("document.documentElement.scrollWidth")
    assert width <= 390  # wide tables scroll in a frame of their own
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    text = opened.evaluate("getComputedStyle(document.body).color")
    axis = opened.locator(".chart svg text").first.get_attribute("fill")
    light = sum(map(int, ground[4:-1].split(","))) > 382
    assert light == (scheme == "light")
    assert axis.lower() in ("#1b1f24" if light else "#e6e8eb", text)
    context.close()
