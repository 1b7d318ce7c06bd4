"""The report: one self-contained HTML page about what was emitted and what the loop did, and PNGs of its charts.

Belongs here: the page, and its figures of what was emitted, read from the marts and the lake. Everything on the page is
a sum of rows that are on disk; the page says which tables, which version and which method. Does not belong here: what
the page says of the loop (``report_loop``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import jinja2

from sust_dagster import __version__
from sust_dagster.faces.charts import Bars, Chart, Line, Stack, plotly_div, png
from sust_dagster.faces.console import number
from sust_dagster.faces.report_loop import loop_pages
from sust_dagster.faces.report_parts import Table
from sust_dagster.faces.report_record import read_loop
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake

_TABLES = (
    "activity_ledger", "quarantine", "ingest_counts", "grid_intensity", "emissions", "executions", "outcomes",
)  # fmt: skip

#: What stands in the figures of a section, by the heading of its first column.
_EMITTED = "Emissions by {}: location-based with the guaranteed bounds, embodied, energy and cost"

#: What each method computes, in a sentence.
METHOD_NOTES = {
    "simple/v1": ("kg = (vCPUs × 0.005 kW + GPUs × 0.3 kW) × hours × PUE 1.1 × intensity of the region and hour."),
    "instance-power/v1": (
        "kg = (idle + utilisation × (full − idle) watts of the CPU family and GPUs, and memory) × hours × the site's "
        "PUE × intensity of the region and hour; 50 % utilisation where none is metered."
    ),
}


class ReportError(RuntimeError):
    """The project has nothing to report on yet; the message says which command makes it."""


@dataclass(frozen=True)
class Section:
    """One part of the page: a chart, the same figures as a table, and what to read from it."""

    title: str
    note: str
    chart: Chart
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def table(self) -> Table | None:
        return Table(self.caption, self.header, self.rows, folded="The figures") if self.header else None


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    return connection.sql(sql).to_arrow_table().to_pylist()


def _open(project: Project) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("set threads = 1")  # sums over threads differ in their last digits from run to run
    for name in (
        "jobs",
        "emissions_by_region",
        "emissions_by_team",
        "emissions_by_service",
        "emissions_by_hour_of_day",
        "effective_cost",
    ):
        path = project.marts_root / f"{name}.parquet"
        if not path.exists():
            raise ReportError(f"{path} is not there; `sust backfill --project {project.root}` builds the marts")
        connection.read_parquet(str(path)).create_view(name)
    return connection


_SUMS = """
    sum(kg_location) as kg, sum(kg_location_lower) as lower, sum(kg_location_upper) as upper,
    sum(kg_market) as market, sum(kg_embodied) as embodied, sum(energy_kwh) as energy, sum(facility_kwh) as facility,
    sum(cost_usd) as usd, sum(effective_cost_usd) as effective, sum(slices) as slices,
    sum(slices_not_estimated) as not_estimated
"""


def _grouped(connection: duckdb.DuckDBPyConnection, mart: str, by: str, *, limit: int = 12) -> list[dict[str, Any]]:
    return _rows(
        connection,
        f"select {by} as label, {_SUMS} from {mart} group by {by} order by kg desc nulls last, label limit {limit}",
    )


def _bar_section(title: str, note: str, label: str, groups: Sequence[Mapping[str, Any]]) -> Section:
    shown = [g for g in groups if g["kg"] is not None]
    chart = Bars(
        title=title,
        unit="kgCO2e",
        labels=[str(g["label"]) for g in shown],
        values=[g["kg"] for g in shown],
        lower=[g["lower"] for g in shown],
        upper=[g["upper"] for g in shown],
    )
    rows = [
        (
            str(g["label"]),
            number(g["kg"]),
            f"{number(g['lower'])} – {number(g['upper'])}",
            number(g["embodied"]),
            number(g["energy"]),
            number(g["usd"]),
        )
        for g in groups
    ]
    header = (label, "kg location-based", "bounds", "kg embodied", "kWh (IT)", "USD")
    return Section(title, note, chart, header, rows, _EMITTED.format(label))


def _daily(connection: duckdb.DuckDBPyConnection) -> Section:
    cells = _rows(connection, f"select day, region, {_SUMS} from emissions_by_region group by day, region order by day")
    days = sorted({c["day"] for c in cells})
    totals = {r["day"]: r for r in _rows(connection, f"select day, {_SUMS} from effective_cost group by day")}
    order = sorted({c["region"] for c in cells}, key=lambda r: -sum(c["kg"] or 0 for c in cells if c["region"] == r))
    kept, rest = order[:6], order[6:]
    by_cell = {(c["day"], c["region"]): c["kg"] or 0.0 for c in cells}
    series = {region: [by_cell.get((d, region), 0.0) for d in days] for region in kept}
    if rest:
        series["other regions"] = [sum(by_cell.get((d, r), 0.0) for r in rest) for d in days]
    chart = Stack(
        title="Emissions by day",
        unit="kgCO2e",
        labels=[f"{d:%d %b}" for d in days],
        series=series,
        total_lower=[totals[d]["lower"] or 0.0 for d in days],
        total_upper=[totals[d]["upper"] or 0.0 for d in days],
    )
    rows = [
        (
            f"{d:%Y-%m-%d}",
            number(totals[d]["kg"]),
            f"{number(totals[d]['lower'])} – {number(totals[d]['upper'])}",
            number(totals[d]["embodied"]),
            number(totals[d]["energy"]),
            number(totals[d]["usd"]),
        )
        for d in days
    ]
    header = ("day", "kg location-based", "bounds", "kg embodied", "kWh (IT)", "USD")
    note = (
        "Location-based, average intensity, each hour met by its own intensity. "
        "Bars stack regions; the line through each dot spans the guaranteed bounds."
    )
    return Section("Emissions by day", note, chart, header, rows, _EMITTED.format("day"))


def _hours(connection: duckdb.DuckDBPyConnection) -> list[Section]:
    rows = _rows(connection, "select * from emissions_by_hour_of_day order by hour_of_day")
    labels = [f"{r['hour_of_day']:02d}" for r in rows]
    days = [r["days"] for r in rows]
    mean = Bars(
        title="Emissions by hour of day",
        unit="kgCO2e per day",
        labels=labels,
        values=[(r["kg_location"] or 0) / d for r, d in zip(rows, days, strict=True)],
        lower=[(r["kg_location_lower"] or 0) / d for r, d in zip(rows, days, strict=True)],
        upper=[(r["kg_location_upper"] or 0) / d for r, d in zip(rows, days, strict=True)],
        x_title="hour of day, UTC",
    )
    intensity = Line(
        title="Intensity that the energy met, by hour of day",
        unit="gCO2e/kWh",
        labels=labels,
        values=[(r["mean_intensity_kgco2_kwh"] or 0) * 1000 for r in rows],
        x_title="hour of day, UTC",
    )
    table = [
        (label, number((r["kg_location"] or 0) / d), number((r["energy_kwh"] or 0) / d), number(g))
        for label, r, d, g in zip(labels, rows, days, intensity.values, strict=True)
    ]
    header = ("hour (UTC)", "kg per day", "kWh (IT) per day", "g/kWh met")
    return [
        Section(
            "Emissions by hour of day", "When the work runs, on a mean day.", mean, header, table,
            "By hour of day (UTC): emissions and energy of a mean day, and the intensity the energy met",
        ),
        Section(
            "Intensity that the energy met",
            "Energy-weighted: how clean the grid was when and where work ran.",
            intensity,
            (),
            (),
        ),
    ]  # fmt: skip


def _intake(lake: Lake) -> Table:
    counts = lake.read("ingest_counts", columns=["outcome", "class_name", "rows"])
    connection = duckdb.connect()
    connection.register("counts", counts)
    rows = connection.sql(
        "select outcome, class_name, cast(sum(rows) as bigint) from counts "
        "group by all order by outcome, 3 desc, class_name"
    ).fetchall()
    return Table(
        "Rows read are the sum of the three: ledger, quarantine, and deliberately skipped classes",
        ("outcome", "class", "rows"),
        [(outcome, name, f"{n:,}") for outcome, name, n in rows],
        left=2,
    )


def _versions(lake: Lake) -> Table:
    """Which state of the lake the page was made from."""
    found = [(t, lake.version(t), len(lake.slots(t)), len(lake.restatements(t))) for t in _TABLES]
    return Table(
        "Tables of the lake this page was made from; decisions are from the books",
        ("table", "version", "slots", "restatements"),
        [(t, "–" if v is None else str(v), f"{slots:,}", f"{again:,}") for t, v, slots, again in found],
    )


def summary(project: Project) -> dict[str, Any]:
    """Totals of the project as one flat object (the figures of the page's head)."""
    connection = _open(project)
    total = _rows(connection, f"select {_SUMS}, min(day) as first_day, max(day) as last_day from effective_cost")[0]
    jobs = _rows(connection, "select count(*) as jobs from jobs")[0]["jobs"]
    return {
        "jobs": jobs,
        "slices": int(total["slices"] or 0),
        "slices_not_estimated": int(total["not_estimated"] or 0),
        "energy_kwh": total["energy"],
        "facility_kwh": total["facility"],
        "kg_location": total["kg"],
        "kg_location_lower": total["lower"],
        "kg_location_upper": total["upper"],
        "kg_market": total["market"],
        "kg_embodied": total["embodied"],
        "cost_usd": total["usd"],
        "effective_cost_usd": total["effective"],
        "first_day": str(total["first_day"]),
        "last_day": str(total["last_day"]),
    }


def write_report(project: Project, out: Path, *, pngs: Path | None = None) -> Path:
    """Render the page to ``out`` and, where ``pngs`` names a folder, each chart as a PNG.

    Raises :class:`ReportError` when the marts are not built.
    """
    connection = _open(project)
    lake = Lake(project.lake_root)
    sections = [
        _daily(connection),
        _bar_section("Emissions by region", "", "region", _grouped(connection, "emissions_by_region", "region")),
        _bar_section("Emissions by team", "", "team", _grouped(connection, "emissions_by_team", "team_id")),
        _bar_section(
            "Emissions by service", "The twelve largest.", "service",
            _grouped(connection, "emissions_by_service", "service_name"),
        ),
        *_hours(connection),
        _bar_section(
            "Emissions by workload category",
            "Set by policy from the service tier: how long work may wait.",
            "category",
            _grouped(connection, "jobs", "workload_category"),
        ),
    ]  # fmt: skip
    loop = loop_pages(read_loop(project))
    drawn = [(s.title, s.chart) for s in sections] + [(p.chart.title, p.chart) for p in loop.parts if p.chart]
    if pngs is not None:
        pngs.mkdir(parents=True, exist_ok=True)
        for name, chart in drawn:
            png(chart, pngs / f"{name.lower().replace(',', '').replace(' ', '_')}.png")
    divs = iter([plotly_div(chart, f"chart-{i}", script=i == 0) for i, (_, chart) in enumerate(drawn)])
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("sust_dagster.faces"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
    page = template.render(
        totals=summary(project),
        number=number,
        project=project,
        sections=[(s, next(divs)) for s in sections],
        parts=[(p, next(divs) if p.chart else "") for p in loop.parts],
        loop_pages=loop,
        intake=_intake(lake),
        versions=_versions(lake),
        digest=lake.digest(_TABLES),
        version=__version__,
        method_note=METHOD_NOTES.get(project.method, "see docs/factors.md."),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    return out
