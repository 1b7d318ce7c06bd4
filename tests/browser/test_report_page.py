"""The report as a reader sees it: in a real browser, from disk, with the network closed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sust_dagster.faces.console import progress
from sust_dagster.faces.demo import DemoResult, run_demo
from sust_dagster.faces.report import ReportError, write_report
from sust_dagster.settings import simulated_project

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.browser


#: The first day whose executions are settled, and its chart.
DAYS, CHARTS = 5, 8


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    with progress() as bars:
        return run_demo(tmp_path_factory.mktemp("report") / "demo", DAYS, 42, bars)


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
    page.wait_for_selector(f"#chart-{CHARTS - 1} .main-svg")
    assert page.locator(".js-plotly-plot").count() == CHARTS
    assert not problems
    assert not outside
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1200, "nothing runs over the side"


def test_charts_stay_in_their_cards_on_a_phone(demo: DemoResult, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(demo.report.as_uri())
    page.wait_for_selector(f"#chart-{CHARTS - 1} .main-svg")
    page.wait_for_timeout(500)
    overflow = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].filter("
        "d => d.querySelector('.main-svg').getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert overflow == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "tables scroll by themselves"


def test_the_tables_hold_the_figures_of_the_charts(demo: DemoResult, page: Any) -> None:
    page.goto(demo.report.as_uri())
    page.get_by_text("The figures").first.click()
    rows = page.locator("details[open] tbody tr")
    assert rows.count() == DAYS, "one a day"
    assert "2026-01-01" in rows.first.inner_text()
    text = page.locator("main").inner_text()
    assert "no instrument held" in text
    assert "In no other total" in text or "in no other total" in text


def test_what_was_verified_stands_there_with_its_interval_and_its_evidence(demo: DemoResult, page: Any) -> None:
    page.goto(demo.report.as_uri())
    page.wait_for_selector(f"#chart-{CHARTS - 1} .main-svg")
    part, card = page.locator("#verified"), demo.scorecard
    assert part.locator(".errorbar").count() > 1, "an interval per team"
    said = part.inner_text()
    low, high = (card[f"verified_ci90_{end}_kg"] for end in ("lower", "upper"))
    titles = part.locator("[title]").evaluate_all("all => all.map(e => e.title)")
    assert any(repr(low) in t and repr(high) in t for t in titles), "all digits of the total"
    assert f"{card['outcomes_unsettled']} outcomes of {card['outcomes']} are not settled" in said
    assert "simulator's truth" in said
    bundles = {f.stem for f in demo.project.evidence_root.glob("*.json")}
    shown = [t for t in titles if len(t) == 64]
    assert shown and set(shown) <= bundles
    assert all(sha[:12] in said for sha in shown)
    assert "largest proven gap" in page.locator("#plan").inner_text()
    command = page.locator("#check pre").inner_text()
    assert f"sust evidence verify evidence/{shown[0]}.json" in command


def test_the_page_can_be_read_without_seeing_it(demo: DemoResult, page: Any) -> None:
    """Headings step by step, a caption and row heads for every table, and scrolling parts the keyboard reaches."""
    page.goto(demo.report.as_uri())
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    tables = page.locator("table").count()
    assert tables > 10
    assert page.locator("table > caption").count() == tables
    assert page.locator("tbody > tr").count() == page.locator("tbody > tr > th[scope=row]:first-child").count()
    assert page.locator(".scroll").count() == page.locator(".scroll[tabindex='0'][aria-label]").count()
    targets = page.locator("nav a").evaluate_all("all => all.map(a => document.querySelector(a.hash) !== null)")
    assert len(targets) > 4 and all(targets)


def test_every_chart_is_a_png_too(demo: DemoResult) -> None:
    files = sorted((demo.project.root / "charts").glob("*.png"))
    assert len(files) == CHARTS
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_the_report_is_the_same_every_time(demo: DemoResult, tmp_path: Path) -> None:
    pages = {write_report(demo.project, tmp_path / "report.html").read_bytes() for _ in range(6)}
    assert len(pages) == 1


def test_a_project_without_marts_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="backfill"):
        write_report(simulated_project(tmp_path, days=1, seed=1), tmp_path / "report.html")
