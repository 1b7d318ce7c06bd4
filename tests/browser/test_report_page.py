"""The report as a reader sees it: in a real browser, from disk, with the network closed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sust_dagster.faces.console import progress
from sust_dagster.faces.demo import DemoResult, run_demo
from sust_dagster.faces.report import ReportError, write_report
from sust_dagster.settings import simulated_project

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    with progress() as bars:
        return run_demo(tmp_path_factory.mktemp("report") / "demo", 2, 42, bars)


@pytest.fixture
def page() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; the report is a page and is tested in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser.new_page(viewport={"width": 1200, "height": 900})
        browser.close()


def test_the_page_is_self_contained_and_draws_every_chart(demo: DemoResult, page: Any) -> None:
    problems: list[str] = []
    outside: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(demo.report.as_uri())
    page.wait_for_selector("#chart-6 .main-svg")
    assert page.locator(".js-plotly-plot").count() == 7
    assert not problems
    assert not outside
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1200, "nothing runs over the side"


def test_charts_stay_in_their_cards_on_a_phone(demo: DemoResult, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(demo.report.as_uri())
    page.wait_for_selector("#chart-6 .main-svg")
    page.wait_for_timeout(500)
    overflow = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].filter("
        "d => d.querySelector('.main-svg').getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert overflow == 0


def test_the_tables_hold_the_figures_of_the_charts(demo: DemoResult, page: Any) -> None:
    page.goto(demo.report.as_uri())
    page.get_by_text("The figures").first.click()
    rows = page.locator("details[open] tbody tr")
    assert rows.count() == 2, "two days"
    assert "2026-01-01" in rows.first.inner_text()
    text = page.locator("main").inner_text()
    assert "no instrument held" in text
    assert "In no other total" in text or "in no other total" in text


def test_every_chart_is_a_png_too(demo: DemoResult) -> None:
    files = sorted((demo.project.root / "charts").glob("*.png"))
    assert len(files) == 7
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_the_report_is_the_same_every_time(demo: DemoResult, tmp_path: Path) -> None:
    pages = {write_report(demo.project, tmp_path / "report.html").read_bytes() for _ in range(6)}
    assert len(pages) == 1


def test_a_project_without_marts_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="backfill"):
        write_report(simulated_project(tmp_path, days=1, seed=1), tmp_path / "report.html")
