"""Asset checks: what must hold before anything downstream may use a partition.

Belongs here: checks that read the lake back and judge what is there. They look at the run's own window, load it
themselves and share no code with the step that wrote it. A failing blocking check stops the run.
"""

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb
import pyarrow as pa

from sust_dagster.agents.accountant import FactorError, FactorSet, cross_check
from sust_dagster.connectors.expectations import placed_runs, seed_formula_kg
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project

#: Windows shorter than this hold too few jobs to be compared with the founding design's totals.
SEED_TOTALS_LEAST = timedelta(days=14)
#: Share by which simulated totals may leave the founding design's formula.
SEED_TOTALS_TOLERANCE = 0.10


def build(hourly: dg.TimeWindowPartitionsDefinition, project: Project) -> list[dg.AssetChecksDefinition]:
    """The checks of the hourly assets."""

    def _spec(name: str, asset: str, description: str, *, blocking: bool = True) -> dg.AssetCheckSpec:
        # No partitions on the spec: a range run gives one evaluation, and the UI shows that only unpartitioned.
        return dg.AssetCheckSpec(name, asset=asset, description=description, blocking=blocking)

    @dg.multi_asset_check(
        name="activity_ledger_checks",
        specs=[
            _spec("row_conservation", "activity_ledger", "Every input row is in the ledger, in quarantine or a count."),
            _spec("schema_pass_rate", "activity_ledger", "Quarantine holds at most the share the project allows."),
            _spec("keys_are_unique", "activity_ledger", "No activity is there twice."),
            _spec("no_negative_usage", "activity_ledger", "Usage is negative on corrections only."),
            _spec("slices_fit_their_hour", "activity_ledger", "A slice starts and ends within one clock hour."),
            _spec("freshness", "activity_ledger", "The newest activity is younger than the limit.", blocking=False),
        ],
    )
    def ledger_checks(
        context: dg.AssetCheckExecutionContext, project: ProjectResource
    ) -> Iterator[dg.AssetCheckResult]:
        window = _window(context, hourly, project.project)
        with _tables(project, window, _OF_THE_LEDGER) as con:
            yield _row_conservation(con)
            read, rejected = con.sql(
                "select coalesce(sum(rows), 0), coalesce(sum(rows) filter (outcome = 'quarantine'), 0) "
                "from ingest_counts"
            ).fetchall()[0]
            rate = 1 - rejected / read if read else 1.0
            yield _result(
                "schema_pass_rate",
                "activity_ledger",
                rate >= project.project.schema_pass_rate,
                f"{rejected} of {read} rows are in quarantine",
                pass_rate=float(rate),
            )
            yield _none(con, "keys_are_unique", "activity_ledger", "activity_id", "activity_id having count(*) > 1")
            yield _no_rows(
                con,
                "no_negative_usage",
                "activity_ledger",
                "select activity_id from activity_ledger where charge_class <> 'correction' "
                "and (resource_qty < 0 or usage_hours < 0 or vcpu_hours < 0)",
            )
            yield _no_rows(
                con,
                "slices_fit_their_hour",
                "activity_ledger",
                "select activity_id from activity_ledger where ended_at <= started_at "
                "or date_trunc('hour', started_at) + interval 1 hour < ended_at",
            )
            yield _freshness(con, project.project, window)

    @dg.multi_asset_check(
        name="emissions_checks",
        specs=[
            _spec("every_activity_accounted", "emissions", "Ledger and emissions hold the same activities."),
            _spec("no_negative_energy", "emissions", "Energy is negative on corrections only."),
            _spec("bounds_contain_the_point", "emissions", "Lower bound <= value <= upper bound."),
            _spec("not_estimated_is_named", "emissions", "A row without kilograms says why."),
            *(
                [_spec("seed_table_totals", "emissions", "Simulated totals follow the founding design's table.")]
                if project.source == "simulated" and not project.grid_replay
                else []
            ),
        ],
    )
    def emissions_checks(
        context: dg.AssetCheckExecutionContext, project: ProjectResource
    ) -> Iterator[dg.AssetCheckResult]:
        window = _window(context, hourly, project.project)
        with _tables(project, window, _OF_THE_EMISSIONS) as con:
            yield _no_rows(
                con,
                "every_activity_accounted",
                "emissions",
                "select activity_id from activity_ledger full join emissions using (activity_id) "
                "where activity_ledger.started_at is null or emissions.started_at is null",
            )
            yield _no_rows(
                con,
                "no_negative_energy",
                "emissions",
                "select activity_id from emissions join activity_ledger using (activity_id) "
                "where charge_class <> 'correction' and (energy_kwh < 0 or facility_kwh < 0 or kg_location < 0)",
            )
            yield _no_rows(
                con,
                "bounds_contain_the_point",
                "emissions",
                "select activity_id from emissions where "
                + " or ".join(f"not ({c}_lower <= {c} and {c} <= {c}_upper)" for c in _BOUNDED),
            )
            yield _no_rows(
                con,
                "not_estimated_is_named",
                "emissions",
                "select activity_id from emissions where kg_location is null and quality = 'ok'",
            )
            if project.project.source == "simulated" and not project.project.grid_replay:
                yield _seed_totals(con, project.project, window)

    @dg.multi_asset_check(
        name="emission_factors_checks",
        specs=[
            _spec("factors_usable", "emission_factors", "Active factors form a set the accountant accepts."),
            _spec("factors_reviewed", "emission_factors", "No active factor is older than the limit.", blocking=False),
            _spec("sources_agree", "emission_factors", "Sources agree within their bounds.", blocking=False),
        ],
    )
    def factor_checks(project: ProjectResource) -> Iterator[dg.AssetCheckResult]:
        yield from _factor_results(project, datetime.now(UTC))

    return [ledger_checks, emissions_checks, factor_checks]


def _factor_results(project: ProjectResource, now: datetime) -> Iterator[dg.AssetCheckResult]:
    asset, store = "emission_factors", project.factor_store
    active = store.active(now)
    try:
        FactorSet.from_table(active)
        problem = ""
    except FactorError as error:
        problem = str(error)
    yield _result("factors_usable", asset, not problem and active.num_rows > 0, problem or f"{active.num_rows} active")
    days = project.project.factor_age_limit_days
    stale = store.stale(now, days=days)
    names = ", ".join(sorted(set(stale.column("name").to_pylist()))[:5])
    detail = f"{stale.num_rows} active factors were last reviewed more than {days:g} days ago" + (
        f": {names}" * bool(names)
    )
    yield _result("factors_reviewed", asset, stale.num_rows == 0, detail, warn=True, stale=stale.num_rows)
    apart = cross_check(project.handle("accountant").read_books("emission_factors"))
    first = apart.slice(0, 1).to_pylist()
    detail = "no two sources are further apart than their bounds"
    if first:
        pair = first[0]
        detail = (
            f"{apart.num_rows} disagreements, first {pair['factor_type']} {pair['name']}: {pair['source_a']} says "
            f"{pair['value_a']:g}, {pair['source_b']} says {pair['value_b']:g} {pair['unit']}"
        )
    yield _result("sources_agree", asset, not first, detail, warn=True, disagreements=apart.num_rows)


_BOUNDED = ("kg_location", "kg_market", "kg_embodied")

#: What the checks look at; a month has a file per hour, and each column of each costs time.
_OF_THE_LEDGER = {
    "activity_ledger": (
        "activity_id", "raw_record_ref", "started_at", "ended_at", "charge_class", "resource_qty", "usage_hours",
        "vcpu_hours",
    ),
    "quarantine": ("quarantined_for",),
    "ingest_counts": ("hour", "outcome", "rows"),
}  # fmt: skip
_OF_THE_EMISSIONS = {
    "activity_ledger": ("activity_id", "started_at", "charge_class"),
    "emissions": (
        "activity_id", "started_at", "energy_kwh", "facility_kwh", "quality",
        *(f"{c}{bound}" for c in _BOUNDED for bound in ("", "_lower", "_upper")),
    ),
}  # fmt: skip


def _window(
    context: dg.AssetCheckExecutionContext, hourly: dg.TimeWindowPartitionsDefinition, project: Project
) -> tuple[datetime, datetime]:
    """The hours of the run that the check is part of; all of the project's when it is executed on its own."""
    tags = context.run.tags
    first = tags.get("dagster/asset_partition_range_start") or tags.get("dagster/partition")
    last = tags.get("dagster/asset_partition_range_end") or tags.get("dagster/partition")
    if first is None or last is None:
        return project.start, project.last_hour_end()
    return hourly.time_window_for_partition_key(first).start, hourly.time_window_for_partition_key(last).end


_local = threading.local()


@contextmanager
def _tables(
    project: ProjectResource, window: tuple[datetime, datetime], tables: Mapping[str, Sequence[str]]
) -> Generator[duckdb.DuckDBPyConnection]:
    """The window of each table and its named columns, read from the lake, under the table's name.

    One database per thread, in memory: to make one takes longer than most checks.
    """
    con = getattr(_local, "connection", None)
    if con is None:
        con = _local.connection = duckdb.connect()
        con.execute("set TimeZone = 'UTC'")
    try:
        for table, columns in tables.items():
            con.register(table, project.world.lake.read(table, *window, columns=columns))
        yield con
    finally:
        for table in tables:
            con.unregister(table)


def _result(
    name: str, asset: str, passed: bool, detail: str, *, warn: bool = False, **metadata: float | int | str
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset,
        passed=bool(passed),
        severity=dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR,
        description=detail,
        metadata=metadata,
    )


def _no_rows(con: duckdb.DuckDBPyConnection, name: str, asset: str, sql: str) -> dg.AssetCheckResult:
    """Passes when the query for offending rows finds none; names the first when it does."""
    found: pa.Table = con.sql(sql).to_arrow_table()
    detail = "none found" if not found.num_rows else f"{found.num_rows} rows, first {found.column(0)[0].as_py()}"
    return _result(name, asset, found.num_rows == 0, detail, offending_rows=found.num_rows)


def _none(con: duckdb.DuckDBPyConnection, name: str, table: str, column: str, having: str) -> dg.AssetCheckResult:
    return _no_rows(con, name, table, f"select {column} from {table} group by {having}")


def _row_conservation(con: duckdb.DuckDBPyConnection) -> dg.AssetCheckResult:
    """Counts say where every row went; the tables must hold what the counts say, hour by hour.

    A counted ledger row has a slice in the hour it starts in (a longer one has more slices in later hours), and a
    counted quarantine row is in the quarantine of its hour.
    """
    sql = """
        with counted as (
            select hour,
                   coalesce(sum(rows) filter (outcome = 'ledger'), 0)     as ledger,
                   coalesce(sum(rows) filter (outcome = 'quarantine'), 0) as quarantined
            from ingest_counts group by hour
        ),
        slices as (
            select date_trunc('hour', started_at) as hour, count(distinct raw_record_ref) as refs
            from activity_ledger group by all
        ),
        rejected as (
            select date_trunc('hour', quarantined_for) as hour, count(*) as rows from quarantine group by all
        )
        select coalesce(counted.hour, slices.hour, rejected.hour) as hour, ledger, refs, quarantined, rejected.rows
        from counted full join slices on counted.hour = slices.hour
        full join rejected on coalesce(counted.hour, slices.hour) = rejected.hour
        where coalesce(refs, 0) < coalesce(ledger, 0) or coalesce(quarantined, 0) <> coalesce(rejected.rows, 0)
    """
    totals = dict(con.sql("select outcome, sum(rows)::bigint from ingest_counts group by outcome").fetchall())
    result = _no_rows(con, "row_conservation", "activity_ledger", sql)
    return _result(
        "row_conservation",
        "activity_ledger",
        result.passed,
        f"{result.description} (hours whose tables do not hold what was counted)",
        rows_read=sum(totals.values()),
        ledger=totals.get("ledger", 0),
        quarantine=totals.get("quarantine", 0),
        skipped=totals.get("skipped", 0),
    )


def _freshness(
    con: duckdb.DuckDBPyConnection, project: Project, window: tuple[datetime, datetime]
) -> dg.AssetCheckResult:
    """Age of the newest activity against the end of the window, as far as that is in the past.

    A simulated cloud has its own clock, which stands at the end of the window.
    """
    newest = con.sql("select max(ended_at) from activity_ledger").fetchall()[0][0]
    now = window[1] if project.source == "simulated" else min(window[1], datetime.now(UTC))
    if newest is None:
        return _result("freshness", "activity_ledger", False, f"no activity from {window[0]} to {window[1]}", warn=True)
    age = (now - newest).total_seconds() / 3600
    limit = project.freshness_limit_hours
    return _result(
        "freshness",
        "activity_ledger",
        age <= limit,
        f"newest activity ended {age:.2f} h before {now:%Y-%m-%d %H:%M}, limit {limit:g} h",
        warn=True,
        age_hours=age,
    )


def _seed_totals(
    con: duckdb.DuckDBPyConnection, project: Project, window: tuple[datetime, datetime]
) -> dg.AssetCheckResult:
    name, asset = "seed_table_totals", "emissions"
    if window[1] - window[0] < SEED_TOTALS_LEAST:
        detail = f"not judged: a window under {SEED_TOTALS_LEAST.days} days holds too few jobs"
        return _result(name, asset, True, detail, warn=True)
    if placed_runs(project):
        return _result(
            name, asset, True, "not judged: plans changed what runs, which the table knows nothing of", warn=True
        )
    accounted = con.sql("select coalesce(sum(kg_location), 0) from emissions").fetchall()[0][0]
    expected = seed_formula_kg(project, *window)
    ratio = accounted / expected
    return _result(
        name,
        asset,
        abs(ratio - 1) <= SEED_TOTALS_TOLERANCE,
        f"accounted {accounted:.1f} kg, the table's formula gives {expected:.1f} kg",
        ratio=ratio,
    )
