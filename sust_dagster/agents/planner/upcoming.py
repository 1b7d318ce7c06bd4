"""Jobs to expect: what has recurred, by workload and hour, with how many, how long and how dear.

Belongs here: from the ledger's past runs to job groups of the hours to plan. Does not belong here: what may be done
with a group (``candidates``) or what is best (``rules``, ``scale``).

A group is workload x home region x shape x requested hour. Its expected number of runs is the mean of that hour on the
days of its kind (working day or weekend) in the history, drawn towards the mean of that hour over all days: with n days
of the kind, ``(runs on them + k x mean over all days) / (n + k)``, k = 2 (the posterior mean of a Poisson rate under a
gamma prior worth k days). Where a kind of day had the same number each time, the group is a schedule; where there were
too few days of the kind to tell, all days are asked.

The hours of one stream (workload, region, shape) vary around its mean hour. How much they truly do is what their
variance exceeds that of chance by (empirical Bayes, moments): a gamma prior of that mean and variance draws each hour
towards the mean. So rare work is expected a little in every hour, not fully in the hours it happened to be seen in; and
work that keeps to its hour is expected there alone.

What executed plans moved is counted where and when it was asked for, in its own size and at its own cost: else a plan
would become the next plan's status quo, and delays would pile up. A run is recognised by workload, shape, region and
hour; where several groups of a day were to meet there, it counts in each by its expected part.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow as pa

from sust_dagster.agents.ingestor.arrays import query
from sust_dagster.world.schemas import PLACEMENTS, UPCOMING_JOBS

#: Columns of the ledger that are read here.
LEDGER_COLUMNS = (
    "job_id", "workload_id", "team_id", "cloud_provider", "region", "workload_category", "service_tier", "started_at",
    "ended_at", "usage_hours", "vcpus", "gpus", "cost_usd", "resource_type", "instance_type", "charge_class",
)  # fmt: skip

#: Columns of the emissions that are read here.
EMISSIONS_COLUMNS = ("job_id", "workload_id", "started_at", "resource_type", "energy_kwh")

#: Columns of past UPCOMING_JOBS and PLACEMENTS that tell where executed plans put which runs.
PAST_COLUMNS = (
    "planned_for", "job_id", "workload_id", "region", "requested_start", "vcpus", "gpus", "instance_type",
    "expected_count",
)  # fmt: skip
MOVE_COLUMNS = (
    "planned_for", "job_id", "region", "start", "vcpus_scale", "cost_before_usd", "cost_after_usd", "egress_usd",
)  # fmt: skip

#: What is known of a workload besides its bills: the register of the project.
WORKLOADS = pa.schema(
    [
        ("workload_id", pa.string()),
        ("data_gb", pa.float64()),
        ("sla_latency_ms", pa.float64()),
        ("allowed_regions", pa.string()),
        ("max_delay_hours", pa.float64()),
        ("depends_on", pa.string()),
        ("spot_tolerant", pa.bool_()),
        ("utilisation_p95", pa.float64()),
    ]
)

#: Days of history that rates and run times are taken from.
HISTORY_DAYS = 28
#: Weight, in days, of the hour's mean over all days against the days of its kind.
PRIOR_DAYS = 2.0
#: A run longer than this is a service: it is expected all day, every day, as one run of 24 hours.
SERVICE_HOURS = 36.0
#: Work whose runs last so many hours is asked for once a day, at its hour: it is not expected at others.
DAY_LONG_HOURS = 18.0
#: Least days of a kind that make a schedule of a regular number.
SCHEDULE_DAYS = 3
#: Fewer runs than this behind a group flag it.
FEW_RUNS = 10
#: Groups expected more seldom than this many runs in their hour are left out.
LEAST_EXPECTED = 0.01


def upcoming_jobs(
    ledger: pa.Table,
    emissions: pa.Table,
    workloads: pa.Table,
    planned_for: datetime,
    first: datetime,
    last: datetime,
    known_at: datetime,
    past: pa.Table | None = None,
    moves: pa.Table | None = None,
) -> pa.Table:
    """Job groups requested in ``[first, last)``, as UPCOMING_JOBS, sorted by requested start and id.

    ``ledger`` holds (at least) the ledger's rows of the 28 days before ``known_at``; nothing that starts later is
    looked at, and only runs that had ended by then count for run times. ``emissions`` of the same days give the power
    of a run, whatever the accounting method: its energy over its hours. ``workloads`` is in WORKLOADS; a workload
    that is not in it keeps its groups, flagged ``unregistered``, with what is not known null. Times are UTC hours.

    ``past`` (PAST_COLUMNS of UPCOMING_JOBS) and ``moves`` (MOVE_COLUMNS of PLACEMENTS) of those days tell what executed
    plans did: ``moves`` holds the placements that were carried out and no others.
    """
    for name, moment in (("first", first), ("last", last), ("known_at", known_at)):
        if moment.tzinfo is None or moment.minute or moment.second or moment.microsecond:
            raise ValueError(f"{name}={moment} must be a whole UTC hour")
    groups = query(
        _SQL.format(
            first=_at(first), last=_at(last), known=_at(known_at), planned=_at(planned_for),
            begin=_at(known_at - timedelta(days=HISTORY_DAYS)), days=HISTORY_DAYS, prior=PRIOR_DAYS,
            service=SERVICE_HOURS, schedule=SCHEDULE_DAYS, few=FEW_RUNS, least=LEAST_EXPECTED, long=DAY_LONG_HOURS,
        ),
        {
            "ledger": ledger.select(list(LEDGER_COLUMNS)),
            "emissions": emissions.select(list(EMISSIONS_COLUMNS)),
            "workloads": workloads.cast(WORKLOADS),
            "past": (UPCOMING_JOBS.empty() if past is None else past).select(list(PAST_COLUMNS)),
            "moves": (PLACEMENTS.empty() if moves is None else moves).select(list(MOVE_COLUMNS)),
        },
        threads=1,
    )  # fmt: skip
    return UPCOMING_JOBS.conform(groups)


def _at(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.isoformat()}'"


#: One pass of SQL: slices -> runs -> streams (workload, region, shape) -> rates by hour and kind of day -> groups.
_SQL = """
with slices as (
    select * from ledger
    where charge_class = 'usage' and resource_type in ('compute', 'gpu') and usage_hours > 0
        and started_at >= {begin} and started_at < {known}
),
energy as (
    select job_id, workload_id, sum(energy_kwh) as kwh from emissions
    where resource_type in ('compute', 'gpu') and started_at >= {begin} and started_at < {known} and energy_kwh > 0
    group by job_id, workload_id
),
ran as (
    select job_id, workload_id, any_value(team_id order by started_at) as team_id,
        any_value(cloud_provider order by started_at) as cloud_provider, arg_min(region, started_at) as region,
        any_value(workload_category order by started_at) as category,
        any_value(service_tier order by started_at) as service_tier,
        any_value(instance_type order by started_at) as instance_type,
        min(started_at) as started_at, max(ended_at) as ended_at, sum(usage_hours) as hours,
        coalesce(max(vcpus), 0) as vcpus, coalesce(max(gpus), 0) as gpus, sum(cost_usd) as cost_usd
    from slices group by job_id, workload_id
),
-- Where the groups of past days were to run: moved, or where they were asked for.
whereabouts as (
    select p.workload_id, p.gpus, p.region as home, p.vcpus as own_vcpus, p.instance_type as own_type,
        coalesce(m.region, p.region) as region, p.vcpus * coalesce(m.vcpus_scale, 1) as vcpus,
        date_trunc('hour', coalesce(m.start, p.requested_start)) as hour,
        coalesce(m.vcpus_scale, 1) as scale, m.job_id is not null as moved,
        coalesce(m.start, p.requested_start) - p.requested_start as later,
        case when m.cost_after_usd - m.egress_usd > 0 then m.cost_before_usd / (m.cost_after_usd - m.egress_usd) end
            as dearer,
        p.expected_count / sum(p.expected_count) over (
            partition by p.workload_id, p.gpus, coalesce(m.region, p.region), p.vcpus * coalesce(m.vcpus_scale, 1),
                date_trunc('hour', coalesce(m.start, p.requested_start))
        ) as part
    from past p left join moves m using (planned_for, job_id)
    where p.expected_count > 0
),
runs as (
    select r.job_id, r.workload_id, r.team_id, r.cloud_provider, coalesce(w.home, r.region) as region, r.category,
        r.service_tier, case when w.moved then w.own_type else r.instance_type end as instance_type,
        r.ended_at < {known} and r.started_at > {begin} as whole, r.started_at <= {begin} as cut,
        r.started_at - coalesce(w.later, interval 0 hour) as started_at, r.hours,
        coalesce(w.own_vcpus, r.vcpus) as vcpus, r.gpus, r.cost_usd * coalesce(w.dearer, 1) as cost_usd,
        coalesce(w.scale, 1) as scale, coalesce(w.part, 1) as part
    from ran r left join whereabouts w on w.workload_id = r.workload_id and w.gpus = r.gpus and w.region = r.region
        and w.vcpus = r.vcpus and w.hour = date_trunc('hour', r.started_at)
),
kinds as (
    select runs.* exclude (scale), kwh / scale as kwh, hours > {service} as service
    from runs left join energy using (job_id, workload_id)
),
streams as (
    select workload_id, region, vcpus, gpus, service, any_value(team_id order by started_at) as team_id,
        any_value(cloud_provider order by started_at) as cloud_provider,
        arg_max(category, started_at) as category, arg_max(service_tier, started_at) as service_tier,
        arg_max(instance_type, started_at) as instance_type,
        cast(ceil(round(sum(part), 6)) as bigint) as runs_seen, count(distinct job_id) as resources,
        sum(hours * part) filter (whole) / sum(part) filter (whole) as hours,
        quantile_cont(hours, 0.9) filter (whole) as hours_p90,
        sum(cost_usd * part) filter (whole) / sum(part) filter (whole and cost_usd is not null) as cost_usd,
        sum(cost_usd * part) / sum(hours * part) as usd_per_hour,
        sum(hours * part) / sum(part) as hours_so_far,
        sum(kwh * part) / sum(hours * part) filter (kwh is not null) as it_kw,
        sum((date_part('minute', started_at) / 60 + date_part('second', started_at) / 3600) * part) / sum(part)
            as part_of_hour
    from kinds group by workload_id, region, vcpus, gpus, service
),
planned as (
    select unnest(generate_series({first}, {last} - interval 1 hour, interval 1 hour)) as hour
),
counted as (
    select workload_id, region, vcpus, gpus, date_trunc('hour', started_at) as hour, round(sum(part), 9) as n
    from kinds where not service and not cut group by all
),
-- For each planned hour the same hour of each day the history holds, and whether that day is of its kind.
calendar as (
    select hour, hour - to_days(cast(k as integer)) as past_hour,
        (isodow(hour - to_days(cast(k as integer))) >= 6) = (isodow(hour) >= 6) as same_kind
    from planned cross join range(1, {days} + 2) t(k)
    where hour - to_days(cast(k as integer)) < {known} and hour - to_days(cast(k as integer)) > {begin}
        and hour - to_days(cast(k as integer)) >= (select date_trunc('hour', min(started_at)) from slices)
),
size as (
    select hour, count(*) as days, count(*) filter (same_kind) as kind_days from calendar group by hour
),
rates as (
    select c.hour, n.workload_id, n.region, n.vcpus, n.gpus, sum(n.n) as runs,
        coalesce(sum(n.n) filter (same_kind), 0) as kind_runs,
        coalesce(count(*) filter (same_kind), 0) as kind_present,
        min(n.n) filter (same_kind) as least, max(n.n) filter (same_kind) as most,
        count(*) as present, min(n.n) as least_of_all, max(n.n) as most_of_all
    from calendar c join counted n on n.hour = c.past_hour
    group by all
),
seen as (
    select r.* exclude (least), case when s.kind_days >= {schedule} then r.least else r.least_of_all end as least,
        case when s.kind_days >= {schedule} then r.kind_present = s.kind_days and r.least = r.most
             else r.present = s.days and r.least_of_all = r.most_of_all and s.days >= {schedule} end as regular
    from rates r join size s using (hour)
),
streamed as (
    select distinct workload_id, region, vcpus, gpus from seen
),
filled as (
    select t.*, s.hour, s.days, s.kind_days, coalesce(r.runs, 0) as runs, coalesce(r.kind_runs, 0) as kind_runs,
        r.least, coalesce(r.regular, false) as regular
    from size s cross join streamed t
    left join seen r on r.hour = s.hour and r.workload_id = t.workload_id and r.region = t.region
        and r.vcpus = t.vcpus and r.gpus = t.gpus
),
-- Of each stream: its mean hour, and how much its hours differ beyond what chance makes of equal ones.
spreads as (
    select f.workload_id, f.region, f.vcpus, f.gpus, avg(f.runs / f.days) as hourly,
        case when any_value(coalesce(s.hours, s.hours_so_far)) >= {long} then 1e12
             else greatest(var_pop(f.runs / f.days) - avg(f.runs / f.days) * avg(1 / f.days), 1e-12) end as differ
    from filled f join streams s using (workload_id, region, vcpus, gpus) where not s.service
    group by f.workload_id, f.region, f.vcpus, f.gpus
),
expected as (
    select f.*, (f.kind_runs + {prior} * f.runs / f.days + t.hourly * t.hourly / t.differ)
            / (f.kind_days + {prior} + t.hourly / t.differ) as mean_count
    from filled f join spreads t using (workload_id, region, vcpus, gpus)
),
groups as (
    select e.hour, e.workload_id, e.region, e.vcpus, e.gpus, false as service,
        case when regular then cast(least as double) else mean_count end as expected_count,
        case when regular then 'schedule' else 'history' end as origin
    from expected e
    union all
    -- A service runs all day: one run of 24 hours from the first planned hour for each of its resources.
    select {first}, workload_id, region, vcpus, gpus, true, cast(resources as double), 'schedule'
    from streams where service
),
named as (
    select {planned} as planned_for,
        g.workload_id || '@' || g.region || '/' || cast(g.vcpus as varchar) || 'c' || cast(g.gpus as varchar) || 'g@'
            || strftime(g.hour, '%Y-%m-%dT%HZ') as job_id,
        g.workload_id, s.team_id, s.service_tier, s.cloud_provider, g.region, s.category,
        case when g.service then g.hour
             else g.hour + to_microseconds(cast(s.part_of_hour * 3600 as bigint) * 1000000) end as requested_start,
        case when g.service then 24.0 else coalesce(s.hours, s.hours_so_far) end as duration_hours,
        case when g.service then 24.0 else s.hours_p90 end as duration_hours_p90,
        g.vcpus, g.gpus, w.data_gb, s.it_kw,
        case when g.service then s.usd_per_hour * 24.0 else coalesce(s.cost_usd, s.usd_per_hour * s.hours_so_far) end
            as cost_usd,
        g.expected_count, s.runs_seen, w.sla_latency_ms, w.allowed_regions, w.max_delay_hours,
        w.depends_on as needs, w.spot_tolerant, w.utilisation_p95, s.instance_type, g.origin,
        coalesce(nullif(concat_ws(';', case when w.workload_id is null then 'unregistered' end,
            case when s.runs_seen < {few} then 'few_runs' end,
            case when s.usd_per_hour is null then 'no_cost' end,
            case when s.it_kw is null then 'no_energy' end), ''), 'ok') as quality
    from groups g
    join streams s using (workload_id, region, vcpus, gpus, service)
    left join workloads w on w.workload_id = g.workload_id
    where g.expected_count >= {least}
),
-- What a group waits for: of each workload it needs, the last hour's groups that are through when it is asked for, if
-- nothing is changed. What still runs then it never waited for.
needed as (
    select job_id, requested_start, trim(unnest(string_split(needs, ','))) as workload_id from named
    where needs is not null
),
latest as (
    select n.job_id, n.workload_id, max(a.requested_start) as requested_start
    from needed n join named a on a.workload_id = n.workload_id
        and a.requested_start + to_microseconds(cast(a.duration_hours * 3600000000 as bigint)) <= n.requested_start
    group by all
),
waits as (
    select l.job_id, string_agg(a.job_id, ',' order by a.job_id) as depends_on
    from latest l join named a using (workload_id, requested_start) where a.job_id <> l.job_id group by l.job_id
)
select named.* exclude (needs), waits.depends_on
from named left join waits using (job_id)
order by requested_start, job_id
"""
