"""Anomalies: flagged, never dropped.

Belongs here: cost spikes of a service's hours, missing or unknown regions, gaps in a service's hours, and how old
the newest activity is. Pure functions over ledger rows and over small tables of service hours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, microseconds, query
from sust_dagster.agents.ingestor.slices import HOUR_US

COST_SPIKE = "cost_spike"
UNKNOWN_REGION = "unknown_region"

#: What an hour is judged against: the service's hours of so long before it.
HISTORY = timedelta(days=28)
#: Columns of the ledger that service hours are made of.
HISTORY_COLUMNS = ("service_name", "started_at", "cost_usd")

SERVICE_HOURS = pa.schema(
    [
        ("service_name", pa.string()),
        ("hour", pa.timestamp("us", tz="UTC")),
        ("cost_usd", pa.float64()),
        ("slices", pa.int64()),
    ]
)


#: Costs are summed as decimals, so that a sum does not depend on the order or the batches of the rows.
_EXACT = pa.decimal128(38, 12)


@dataclass
class ServiceHours:
    """Cost and slices by service and hour, summed over any number of ledger batches."""

    tables: list[pa.Table] = field(default_factory=list)

    def add(self, ledger: pa.Table) -> None:
        """Count ledger rows in; of their columns only HISTORY_COLUMNS are looked at."""
        if not ledger.num_rows:
            return
        hours = pa.table(
            {
                "service_name": ledger.column("service_name"),
                "hour": pc.floor_temporal(ledger.column("started_at"), unit="hour"),
                "cost_usd": pc.cast(ledger.column("cost_usd"), _EXACT),
                "slices": pa.array(np.ones(ledger.num_rows, np.int64)),
            }
        )
        self.tables.append(_summed(hours))
        if len(self.tables) > 32:
            self.tables = [_summed(pa.concat_tables(self.tables))]

    def table(self) -> pa.Table:
        """One row per service and hour, sorted (schema SERVICE_HOURS)."""
        if not self.tables:
            return SERVICE_HOURS.empty_table()
        hours = _summed(pa.concat_tables(self.tables)).cast(SERVICE_HOURS)
        return hours.sort_by([("service_name", "ascending"), ("hour", "ascending")])


def _summed(hours: pa.Table) -> pa.Table:
    grouped = hours.group_by(["service_name", "hour"]).aggregate([("cost_usd", "sum"), ("slices", "sum")])
    return grouped.rename_columns(SERVICE_HOURS.names)


def cost_spikes(
    hours: pa.Table,
    *,
    since: datetime | None = None,
    ratio: float = 10.0,
    z: float = 3.5,
    least_hours: int = 8,
    usual_days: int = 3,
    history: timedelta = HISTORY,
) -> pa.Table:
    """Service hours that cost ``ratio`` times the service's median hour or more and stand out by robust z-score.

    ``hours`` is in SERVICE_HOURS. An hour is judged against the service's hours of the ``history`` before it, so
    what comes later never changes the verdict. The z-score is 0.6745 (cost - median) / MAD; where most hours cost the
    same (MAD 0) any difference stands out. A level the service reaches in more than a twentieth of its hours is no
    spike, nor is one whose half it reached on ``usual_days`` days or more: a nightly job is no news. With fewer than
    ``least_hours`` hours before it an hour is not judged, nor is one before ``since``. Returns service_name, hour,
    cost_usd, median_usd, ratio.
    """
    span = f"interval {history // timedelta(seconds=1)} seconds"
    wanted = "true" if since is None else f"hour >= timestamptz '{since.astimezone(UTC):%Y-%m-%d %H:%M:%S}+00'"
    return query(
        f"""
        with least as (
            select service_name, min(cost_usd) as least_usd from hours group by service_name
        ),
        uneven as (  -- a median is no less than the least: all others have no dear hour
            select distinct service_name from hours join least using (service_name)
            where {wanted} and cost_usd >= {ratio} * least_usd
        ),
        judged as (
            select service_name, hour, cost_usd, median(cost_usd) over earlier as median_usd,
                count(cost_usd) over earlier as n
            from hours semi join uneven using (service_name)
            window earlier as (partition by service_name order by hour
                range between {span} preceding and interval 1 second preceding)
        ),
        dear as (  -- few: only for them the costlier figures are worked out
            select * from judged
            where {wanted} and n >= {least_hours} and median_usd > 0 and cost_usd >= {ratio} * median_usd
        ),
        measured as (
            select service_name, dear.hour, any_value(dear.cost_usd) as cost_usd,
                any_value(median_usd) as median_usd, mad(earlier.cost_usd) as spread,
                quantile_cont(earlier.cost_usd, 0.95) as usual_most,
                count(distinct earlier.hour::date) filter (2 * earlier.cost_usd >= dear.cost_usd) as days_alike
            from dear join hours as earlier using (service_name)
            where earlier.hour < dear.hour and earlier.hour >= dear.hour - {span}
            group by service_name, dear.hour
        )
        select service_name, hour, cost_usd, median_usd, cost_usd / median_usd as ratio
        from measured
        where cost_usd > usual_most and days_alike < {usual_days}
            and (spread = 0 or 0.6745 * (cost_usd - median_usd) / spread >= {z})
        order by service_name, hour
        """,
        {"hours": hours},
    )


def gaps(hours: pa.Table, *, least_share: float = 0.5) -> pa.Table:
    """Hours without any slice of a service between its first and its last.

    Only services present in at least ``least_share`` of that span are judged: a nightly job has no gaps.
    Returns service_name, gap_start, gap_end (half-open), hours.
    """
    return query(
        f"""
        with steps as (
            select service_name, hour, lead(hour) over (partition by service_name order by hour) as following,
                count(*) over (partition by service_name) as present,
                date_diff('hour', min(hour) over (partition by service_name),
                    max(hour) over (partition by service_name)) + 1 as span
            from hours
        )
        select service_name, hour + interval 1 hour as gap_start, following as gap_end,
            date_diff('hour', hour, following) - 1 as hours
        from steps
        where following > hour + interval 1 hour and present >= {least_share} * span
        order by service_name, gap_start
        """,
        {"hours": hours},
    )


def freshness(latest_end: datetime, now: datetime) -> float:
    """Age of the newest activity in hours: ``now`` minus the end of the latest charge period."""
    if latest_end.tzinfo is None or now.tzinfo is None:
        raise ValueError("both times need a zone; times are UTC")
    return (now - latest_end).total_seconds() / 3600


def mark(ledger: pa.Table, history: ServiceHours | None = None) -> pa.Table:
    """``ledger`` with its ``anomaly`` column filled: cost_spike and unknown_region, null where nothing is odd.

    Spikes are judged against ``history`` (the hours before) and the ledger's own hours; without a history they are
    not judged, so that an hour's rows do not depend on which other hours were ingested with it.
    """
    if not ledger.num_rows:
        return ledger
    bits = np.zeros(ledger.num_rows, np.int64)
    spikes = SERVICE_HOURS.empty_table()
    if history is not None:
        seen = ServiceHours(list(history.tables))
        seen.add(ledger)
        first: datetime = pc.min(pc.floor_temporal(ledger.column("started_at"), unit="hour")).as_py()
        spikes = cost_spikes(seen.table(), since=first)
    if spikes.num_rows:
        services = as_dictionary(ledger.column("service_name"))
        position = {name: i for i, name in enumerate(services.dictionary.to_pylist())}
        of_spike = np.array([position.get(s, -1) for s in spikes.column("service_name").to_pylist()], np.int64)
        started, _ = microseconds(ledger.column("started_at"))
        spiking, _ = microseconds(spikes.column("hour"))
        base = min(int(started.min()), int(spiking.min())) // HOUR_US
        width = max(int(started.max()), int(spiking.max())) // HOUR_US - base + 1
        wanted = (of_spike * width + spiking // HOUR_US - base)[of_spike >= 0]
        bits |= np.isin(codes(services) * width + started // HOUR_US - base, wanted)
    unknown = pc.match_substring(ledger.column("quality"), UNKNOWN_REGION).to_numpy(zero_copy_only=False)
    bits |= unknown.astype(np.int64) * 2
    texts = pa.array([None, COST_SPIKE, UNKNOWN_REGION, f"{COST_SPIKE};{UNKNOWN_REGION}"], pa.string())
    place = ledger.column_names.index("anomaly")
    return ledger.set_column(place, ledger.schema.field("anomaly"), texts.take(pa.array(bits)))
