"""Every table of the world model, declared once.

Belongs here: column names, Arrow types, units, nullability, a doc line, keys and partitioning of each
table. Arrow schemas, SQL tables, dbt sources, Dagster column schemas, docs and validation derive from
these declarations. Does not belong here: data, I/O or formulas.

Column names and types follow the founding design's SQL; columns are added to it, none is removed.
Times are UTC and timezone-aware, intervals are half-open ``[started_at, ended_at)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa

Home = Literal["lake", "books"]
Partition = Literal["hour", "day", "week", "month", "none"]
Agent = Literal["ingestor", "accountant", "planner", "governance", "executor", "verifier", "learner", "copilot"]

AGENTS: tuple[Agent, ...] = (
    "ingestor",
    "accountant",
    "planner",
    "governance",
    "executor",
    "verifier",
    "learner",
    "copilot",
)

STRING = pa.string()
FLOAT = pa.float64()
INT = pa.int64()
BOOL = pa.bool_()
TIMESTAMP = pa.timestamp("us", tz="UTC")

CATEGORIES = ("urgent", "balanced", "sustainable")
ACTION_TYPES = ("region_shift", "time_shift", "right_size", "spot_convert", "do_nothing")
RESOURCE_TYPES = ("compute", "gpu", "memory", "storage", "network", "other")
DECISION_STATES = (
    "proposed",
    "approved",
    "rejected",
    "expired",
    "executing",
    "executed",
    "failed",
    "verified",
)


class SchemaError(ValueError):
    """A table does not have the columns its declaration asks for."""


@dataclass(frozen=True)
class Column:
    """One column: name, Arrow type, unit (``""`` where there is none), nullability and meaning."""

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    nullable: bool = False
    #: Filled from the commit that wrote the row, never stored in the file, so the same input gives the same bytes.
    from_commit: bool = False


@dataclass(frozen=True)
class TableSpec:
    """One table: where it lives, how it is partitioned, its key and who may write it."""

    name: str
    home: Home
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    writers: tuple[Agent, ...]
    partition: Partition = "none"
    time_column: str | None = None

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """The columns that are in the files (all but those taken from the commit)."""
        return tuple(c for c in self.columns if not c.from_commit)

    @cached_property
    def arrow(self) -> pa.Schema:
        """Arrow schema of the stored columns, units and docs as field metadata."""
        return pa.schema(
            [
                pa.field(c.name, c.type, nullable=c.nullable, metadata={"unit": c.unit, "doc": c.doc})
                for c in self.stored
            ]
        )

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def column(self, name: str) -> Column:
        """The declaration of one column; ``KeyError`` names the table and the column."""
        for c in self.columns:
            if c.name == name:
                return c
        raise KeyError(f"table {self.name} has no column {name}")

    def empty(self) -> pa.Table:
        """A table of no rows with the stored columns."""
        return self.arrow.empty_table()

    def conform(self, data: pa.Table | Mapping[str, object]) -> pa.Table:
        """Return ``data`` with exactly the stored columns, in order and type.

        Missing nullable columns become null. Raises :class:`SchemaError` for a missing or null
        required column, an unknown column or a value that does not fit its type.
        """
        table = data if isinstance(data, pa.Table) else pa.table(dict(data))  # type: ignore[arg-type]
        known = {c.name for c in self.stored}
        unknown = [n for n in table.column_names if n not in known]
        if unknown:
            raise SchemaError(f"table {self.name}: unknown columns {unknown}; declare them in world/schemas.py")
        arrays: list[pa.ChunkedArray | pa.Array] = []
        for c in self.stored:
            if c.name not in table.column_names:
                if not c.nullable:
                    raise SchemaError(f"table {self.name}: required column {c.name} ({c.doc}) is missing")
                arrays.append(pa.nulls(table.num_rows, c.type))
                continue
            values = table.column(c.name)
            if not values.type.equals(c.type):
                try:
                    values = values.cast(c.type)
                except pa.ArrowInvalid as error:
                    raise SchemaError(f"table {self.name}, column {c.name}: {error}") from error
            if not c.nullable and values.null_count:
                raise SchemaError(f"table {self.name}: {values.null_count} null values in required column {c.name}")
            arrays.append(values)
        return pa.Table.from_arrays(arrays, schema=self.arrow)


def _bounded(name: str, unit: str, doc: str, *, nullable: bool = True) -> tuple[Column, Column, Column]:
    """A value and its two bounds (guaranteed box from interval arithmetic)."""
    return (
        Column(name, FLOAT, doc, unit, nullable),
        Column(f"{name}_lower", FLOAT, f"lower bound of {name} (guaranteed box)", unit, nullable),
        Column(f"{name}_upper", FLOAT, f"upper bound of {name} (guaranteed box)", unit, nullable),
    )


ACTIVITY_LEDGER = TableSpec(
    name="activity_ledger",
    home="lake",
    partition="hour",
    time_column="started_at",
    key=("activity_id",),
    writers=("ingestor",),
    doc="One row per billed usage slice, at most an hour long.",
    columns=(
        Column("activity_id", STRING, "UUIDv5 of source, raw record and slice start: a re-run cannot double-count"),
        Column("job_id", STRING, "the job or resource as the outside system names it"),
        Column("workload_id", STRING, "the recurring thing people own and approve changes to"),
        Column("service_name", STRING, "service from the mapping file, else the billed service"),
        Column("team_id", STRING, "team from the mapping file, else 'unmapped'"),
        Column("cloud_provider", STRING, "aws, gcp, azure, oci"),
        Column("region", STRING, "cloud region id as the provider writes it, lower case; 'unknown' when not billed"),
        Column("instance_type", STRING, "instance or machine type", nullable=True),
        Column("resource_type", STRING, "compute, gpu, memory, storage, network or other"),
        Column("resource_qty", FLOAT, "usage of this slice in resource_unit; negative only on corrections"),
        Column("resource_unit", STRING, "vCPU-h, GPU-h, GB-h, GB, h, count"),
        Column(
            "cost_usd", FLOAT, "cost of this slice; null where the bill has another currency and no rate", "USD", True
        ),
        Column("workload_category", STRING, "urgent, balanced or sustainable: set by policy from the service tier"),
        Column("started_at", TIMESTAMP, "start of the slice"),
        Column("ended_at", TIMESTAMP, "end of the slice, exclusive", nullable=True),
        Column(
            "ingested_at", TIMESTAMP, "when the commit that holds the row was made", nullable=True, from_commit=True
        ),
        Column("source", STRING, "billing_api, k8s_metrics, ci_logs"),
        Column(
            "raw_record_ref",
            STRING,
            "bill and content of the raw record; `sust raw-record` finds its row",
            nullable=True,
        ),
        Column("resource_id", STRING, "provider's resource id", nullable=True),
        Column("service_tier", STRING, "tier the category was derived from", nullable=True),
        Column("usage_hours", FLOAT, "resource-hours billed in this slice", "h"),
        Column("vcpus", FLOAT, "vCPUs of the resource", "vCPU", True),
        Column("gpus", FLOAT, "GPUs of the resource", "GPU", True),
        Column("gpu_model", STRING, "GPU model", nullable=True),
        Column("memory_gib", FLOAT, "memory of the resource", "GiB", True),
        Column("vcpu_hours", FLOAT, "vCPU-hours of this slice", "h", True),
        Column("gpu_hours", FLOAT, "GPU-hours of this slice", "h", True),
        Column("utilisation", FLOAT, "observed mean CPU utilisation 0-1, null where not metered", nullable=True),
        Column("data_gb", FLOAT, "bytes billed or held by the slice", "GB", True),
        Column("billed_cost", FLOAT, "cost in the billing currency", nullable=True),
        Column("billing_currency", STRING, "ISO 4217 code of billed_cost", nullable=True),
        Column("charge_class", STRING, "usage or correction"),
        Column("quality", STRING, "'ok' or flags joined by ';' (shaped, unknown_instance, unmapped_team, ...)"),
        Column("anomaly", STRING, "flags joined by ';' (cost_spike, ...), null when none", nullable=True),
    ),
)

QUARANTINE = TableSpec(
    name="quarantine",
    home="lake",
    partition="hour",
    time_column="quarantined_for",
    key=("source", "raw_record_ref"),
    writers=("ingestor",),
    doc="Input rows that could not become activity, each with its reason: nothing is dropped in silence.",
    columns=(
        Column("source", STRING, "source label, as in the ledger"),
        Column("raw_record_ref", STRING, "bill and MD5 of raw_record, #n where it is there more than once"),
        Column("reason", STRING, "named reason, e.g. end_before_start"),
        Column("column", STRING, "offending column of the input", nullable=True),
        Column("value", STRING, "offending value as text", nullable=True),
        Column("fix", STRING, "what would make the row acceptable"),
        Column("raw_record", STRING, "the whole input row as JSON"),
        Column("quarantined_for", TIMESTAMP, "hour the row claims, or the first hour of the load when it claims none"),
    ),
)

INGEST_COUNTS = TableSpec(
    name="ingest_counts",
    home="lake",
    partition="hour",
    time_column="hour",
    key=("hour", "source_label", "outcome", "class_name"),
    writers=("ingestor",),
    doc="Where every input row went: ledger, quarantine or a named skip. The three add up to the rows read.",
    columns=(
        Column("hour", TIMESTAMP, "hour the row's charge period starts in; the project's first hour when undated"),
        Column("source_label", STRING, "bill the rows came from: the file, folder or stream that was named"),
        Column("outcome", STRING, "ledger, quarantine or skipped"),
        Column("class_name", STRING, "usage or correction, the quarantine reason, or the skipped class"),
        Column("rows", INT, "input rows", "rows"),
    ),
)

GRID_INTENSITY = TableSpec(
    name="grid_intensity",
    home="lake",
    partition="hour",
    time_column="ts",
    key=("ts", "region", "signal", "method"),
    writers=("accountant",),
    doc="Hourly grid carbon intensity by cloud region (the founding design's grid_intensity_timeseries).",
    columns=(
        Column("ts", TIMESTAMP, "start of the hour"),
        Column("region", STRING, "cloud region"),
        Column("intensity_kgco2_kwh", FLOAT, "carbon intensity", "kgCO2e/kWh"),
        Column("intensity_lower", FLOAT, "lower bound", "kgCO2e/kWh", True),
        Column("intensity_upper", FLOAT, "upper bound", "kgCO2e/kWh", True),
        Column("source", STRING, "simulated, static, electricity_maps, file"),
        Column("zone", STRING, "grid zone the region was mapped to", nullable=True),
        Column("signal", STRING, "average or marginal"),
        Column("method", STRING, "direct or lifecycle"),
        Column("estimated", BOOL, "the provider says the hour is estimated"),
        Column("quality", STRING, "'ok' or flags joined by ';' (gap_last_known, annual_mean, estimated)"),
        Column("source_version", STRING, "version or digest of the source", nullable=True),
        Column("system_rel_lower", FLOAT, "relative factor of the region-systematic error, lower (<= 1)"),
        Column("system_rel_upper", FLOAT, "relative factor of the region-systematic error, upper (>= 1)"),
        Column("hour_rel_lower", FLOAT, "relative factor of the hour's own error, lower (<= 1)"),
        Column("hour_rel_upper", FLOAT, "relative factor of the hour's own error, upper (>= 1)"),
    ),
)

EMISSIONS = TableSpec(
    name="emissions",
    home="lake",
    partition="hour",
    time_column="started_at",
    key=("activity_id",),
    writers=("accountant",),
    doc="What each activity emitted: location- and market-based, operational and embodied apart.",
    columns=(
        Column("activity_id", STRING, "the ledger row"),
        Column("started_at", TIMESTAMP, "start of the slice"),
        Column("ended_at", TIMESTAMP, "end of the slice, exclusive"),
        Column("region", STRING, "cloud region"),
        Column("service_name", STRING, "service"),
        Column("team_id", STRING, "team"),
        Column("resource_type", STRING, "compute, gpu, memory, storage, network or other"),
        Column("vcpu_hours", FLOAT, "vCPU-hours", "h", True),
        Column("energy_kwh", FLOAT, "energy at the IT equipment; null where no model covers the row", "kWh", True),
        Column("facility_kwh", FLOAT, "energy at the meter: energy_kwh x PUE", "kWh", True),
        *_bounded("kg_location", "kgCO2e", "location-based operational emissions"),
        Column("kg_market", FLOAT, "market-based operational emissions", "kgCO2e", True),
        Column(
            "kg_embodied", FLOAT, "embodied emissions amortised to the slice; never turned into kWh", "kgCO2e", True
        ),
        Column("cost_usd", FLOAT, "cost of the slice", "USD", True),
        Column("methodology", STRING, "method and version, e.g. simple/v1"),
        Column(
            "emission_factor_id", STRING, "UUIDv5 of the factor set: the versions of every factor used", nullable=True
        ),
        Column("quality", STRING, "'ok' or flags joined by ';', the ledger's flags included"),
        Column("kg_market_lower", FLOAT, "lower bound of kg_market", "kgCO2e", True),
        Column("kg_market_upper", FLOAT, "upper bound of kg_market", "kgCO2e", True),
        Column("market_basis", STRING, "instrument used, or 'location (no instrument)'", nullable=True),
        Column("kg_embodied_lower", FLOAT, "lower bound of kg_embodied", "kgCO2e", True),
        Column("kg_embodied_upper", FLOAT, "upper bound of kg_embodied", "kgCO2e", True),
        Column("scope", STRING, "GHG Protocol scope and category for the cloud customer"),
        Column("cloud_provider", STRING, "provider"),
        Column("job_id", STRING, "job"),
        Column("workload_id", STRING, "workload"),
        Column("workload_category", STRING, "urgent, balanced or sustainable"),
        Column("pue", FLOAT, "power usage effectiveness applied", "ratio", True),
        Column("intensity_kgco2_kwh", FLOAT, "grid intensity of the slice's hour", "kgCO2e/kWh", True),
        Column("power_factor_key", STRING, "named factor behind the power figure", nullable=True),
        Column("provider_pue_factor_key", STRING, "named factor shared by a provider's sites", nullable=True),
        Column("region_pue_factor_key", STRING, "named factor of the site's own PUE", nullable=True),
        Column("grid_system_factor_key", STRING, "named factor shared by a region's hours", nullable=True),
        Column("grid_hour_factor_key", STRING, "named factor of the region's hour", nullable=True),
        Column("grid_quality", STRING, "quality flags of the intensity used", nullable=True),
    ),
)

#: The columns of `sust account`, in the order of the plain-file contract; the rest of EMISSIONS follows them.
ACCOUNT_COLUMNS: tuple[str, ...] = tuple(c.name for c in EMISSIONS.columns[:19])

EMISSION_FACTORS = TableSpec(
    name="emission_factors",
    home="books",
    key=("factor_id",),
    writers=("accountant",),
    doc="Versioned factors, append-only; a new version waits for a reviewer before it is used.",
    columns=(
        Column("factor_id", STRING, "UUIDv5 of type, region, provider, name and version"),
        Column("factor_type", STRING, "grid_intensity, pue, power, memory, gpu, embodied, network, storage, market"),
        Column("region", STRING, "region, or null for all", nullable=True),
        Column("provider", STRING, "provider, or null for all", nullable=True),
        Column("name", STRING, "what within the type: CPU family, GPU model, instrument, ..."),
        Column("value", FLOAT, "the figure, in unit"),
        Column("value_lower", FLOAT, "lower bound"),
        Column("value_upper", FLOAT, "upper bound"),
        Column("unit", STRING, "unit of the figure"),
        Column("bound_reading", STRING, "how the bound is to be read: '95% lognormal', 'uniform', ..."),
        Column("source", STRING, "who published it"),
        Column("source_url", STRING, "where", nullable=True),
        Column("source_year", INT, "year of the figure", nullable=True),
        Column("licence", STRING, "licence of the figure", nullable=True),
        Column("valid_from", TIMESTAMP, "first instant it applies to"),
        Column("valid_to", TIMESTAMP, "last instant, exclusive", nullable=True),
        Column("version", INT, "1, 2, ... within (type, region, provider, name)"),
        Column("created_at", TIMESTAMP, "when the row was written"),
    ),
)

FACTOR_REVIEWS = TableSpec(
    name="factor_reviews",
    home="books",
    key=("review_id",),
    writers=("accountant",),
    doc="Activation of factor versions, append-only: who reviewed which version, when and why.",
    columns=(
        Column("review_id", STRING, "UUIDv5 of factor and decision"),
        Column("factor_id", STRING, "the factor version"),
        Column("decision", STRING, "activate or refuse"),
        Column("reviewer", STRING, "who decided"),
        Column("reason", STRING, "why"),
        Column("reviewed_at", TIMESTAMP, "when"),
    ),
)

GRID_FORECAST = TableSpec(
    name="grid_forecast",
    home="lake",
    partition="day",
    time_column="issued_at",
    key=("issued_at", "region", "ts"),
    writers=("planner",),
    doc="Hourly intensity forecast by region with quantiles, as issued.",
    columns=(
        Column("issued_at", TIMESTAMP, "when the forecast was made"),
        Column("region", STRING, "cloud region"),
        Column("ts", TIMESTAMP, "start of the forecast hour"),
        Column("intensity_kgco2_kwh", FLOAT, "point forecast", "kgCO2e/kWh"),
        *(Column(f"intensity_p{q:02d}", FLOAT, f"{q} % quantile", "kgCO2e/kWh") for q in (5, 10, 50, 90, 95)),
        Column("method", STRING, "ridge+conformal, hour-of-day mean, last known good"),
        Column("source_version", STRING, "vintage of the data known then", nullable=True),
        Column("quality", STRING, "'ok' or flags"),
    ),
)

UPCOMING_JOBS = TableSpec(
    name="upcoming_jobs",
    home="lake",
    partition="day",
    time_column="planned_for",
    key=("planned_for", "job_id"),
    writers=("planner",),
    doc="Job groups expected after the plan of a day is made, from schedules and recurring history.",
    columns=(
        Column("planned_for", TIMESTAMP, "day of the plan"),
        Column("job_id", STRING, "the group: workload, home region, shape and requested hour"),
        Column("workload_id", STRING, "workload"),
        Column("team_id", STRING, "team"),
        Column("service_tier", STRING, "tier the category follows from", nullable=True),
        Column("cloud_provider", STRING, "provider"),
        Column("region", STRING, "home region"),
        Column("category", STRING, "urgent, balanced or sustainable"),
        Column("requested_start", TIMESTAMP, "when the runs of the group would start on their own, on average"),
        Column("duration_hours", FLOAT, "expected run time", "h"),
        Column("duration_hours_p90", FLOAT, "90 % quantile of run time", "h", True),
        Column("vcpus", FLOAT, "vCPUs of one run", "vCPU"),
        Column("gpus", FLOAT, "GPUs of one run", "GPU"),
        Column("data_gb", FLOAT, "data that moves with one run; null where nobody said", "GB", True),
        Column("it_kw", FLOAT, "mean IT power of one run, from its accounted energy", "kW", True),
        Column(
            "cost_usd", FLOAT, "expected compute cost of one run at home; null where not billed in USD", "USD", True
        ),
        Column("expected_count", FLOAT, "expected number of runs in the group", "runs"),
        Column("runs_seen", INT, "runs in the history behind the group's duration and cost", "runs"),
        Column("sla_latency_ms", FLOAT, "latency limit", "ms", True),
        Column("allowed_regions", STRING, "comma-joined regions, null for all", nullable=True),
        Column("max_delay_hours", FLOAT, "longest deferral, null for the category's", "h", True),
        Column("depends_on", STRING, "comma-joined groups whose runs must have ended", nullable=True),
        Column("spot_tolerant", BOOL, "may run on capacity that is taken back; null where nobody said", nullable=True),
        Column("utilisation_p95", FLOAT, "observed 95 % quantile of CPU utilisation, 0-1", nullable=True),
        Column("instance_type", STRING, "instance type seen last", nullable=True),
        Column("origin", STRING, "'schedule': as many in the same hour on each such day; 'history': a mean rate"),
        Column("quality", STRING, "'ok' or flags joined by ';' (unregistered, few_runs, no_cost, no_energy)"),
    ),
)

RECOMMENDATIONS = TableSpec(
    name="recommendations",
    home="lake",
    partition="day",
    time_column="planned_for",
    key=("recommendation_id",),
    writers=("planner",),
    doc="One proposal per workload and day: what people approve.",
    columns=(
        Column("recommendation_id", STRING, "UUIDv5 of workload, day and plan"),
        Column("workload_id", STRING, "workload"),
        Column("team_id", STRING, "team"),
        Column("planned_for", TIMESTAMP, "day the plan is for"),
        Column("action_type", STRING, "region_shift, time_shift, right_size, spot_convert or do_nothing"),
        Column("current_config", STRING, "JSON"),
        Column("proposed_config", STRING, "JSON"),
        Column("est_carbon_delta_kg", FLOAT, "after - before; negative is a reduction", "kgCO2e"),
        Column("est_carbon_delta_kg_lower", FLOAT, "lower bound, ci90 (plan interval)", "kgCO2e"),
        Column("est_carbon_delta_kg_upper", FLOAT, "upper bound, ci90 (plan interval)", "kgCO2e"),
        Column("est_cost_delta_usd", FLOAT, "after - before", "USD"),
        Column("est_latency_delta_ms", FLOAT, "after - before", "ms", True),
        Column("confidence", FLOAT, "0 to 1: probability that carbon falls, less for weak inputs"),
        Column("workload_category", STRING, "urgent, balanced or sustainable"),
        Column("rationale_text", STRING, "explanation from a template"),
        Column("risk_level", STRING, "low, medium or high"),
        Column("plan_hash", STRING, "SHA-256 of the canonical plan"),
        Column("risk_reasons", STRING, "named reasons of the risk level, joined by ';'"),
        Column("service_tier", STRING, "tier of the workload", nullable=True),
        Column("issued_at", TIMESTAMP, "when the plan was made, from data known then"),
        Column("objective", STRING, "effective-cost or min-carbon"),
        Column("formulation", STRING, "rules, cp-sat or scale"),
        Column("policy_version", INT, "policy in force"),
        Column("expected_runs", FLOAT, "runs the change touches, expected", "runs"),
        Column("kg_before", FLOAT, "status quo of those runs, estimated", "kgCO2e"),
        Column("cost_before_usd", FLOAT, "status quo of those runs, estimated", "USD"),
        Column("egress_usd", FLOAT, "egress part of the cost after", "USD"),
        Column("static_carbon_delta_kg", FLOAT, "what a table of mean intensities alone would change", "kgCO2e", True),
        Column("break_even_usd_per_t", FLOAT, "carbon price at which it pays; 0 when it saves money", "USD/t", True),
        Column("break_even_egress_gb", FLOAT, "egress that would cancel its value at the carbon price", "GB", True),
        Column("forecast_method", STRING, "methods behind the intensities, joined by ';'"),
    ),
)

PLACEMENTS = TableSpec(
    name="placements",
    home="lake",
    partition="day",
    time_column="planned_for",
    key=("recommendation_id", "job_id"),
    writers=("planner",),
    doc="Where and when each job group of a recommendation runs.",
    columns=(
        Column("recommendation_id", STRING, "the recommendation"),
        Column("planned_for", TIMESTAMP, "day of the plan"),
        Column("job_id", STRING, "job or job group"),
        Column("workload_id", STRING, "workload"),
        Column("requested_start", TIMESTAMP, "when it would have started"),
        Column("home_region", STRING, "where it would have run"),
        Column("region", STRING, "where it runs"),
        Column("start", TIMESTAMP, "when it starts"),
        Column("action_type", STRING, "action"),
        Column("kg_before", FLOAT, "estimated, status quo", "kgCO2e"),
        Column("kg_after", FLOAT, "estimated, proposed", "kgCO2e"),
        Column("cost_before_usd", FLOAT, "status quo", "USD"),
        Column("cost_after_usd", FLOAT, "proposed, egress included", "USD"),
        Column("egress_usd", FLOAT, "egress part", "USD"),
        Column("score_before", FLOAT, "score, status quo"),
        Column("score_after", FLOAT, "score, proposed"),
        Column("expected_runs", FLOAT, "runs of the group, expected", "runs"),
        Column("vcpus_scale", FLOAT, "share of the vCPUs kept; 1 = as it is", "ratio"),
        Column("spot", BOOL, "on capacity that may be taken back"),
    ),
)

DECISION_EVENTS = TableSpec(
    name="decision_events",
    home="books",
    key=("event_id",),
    writers=("planner", "governance", "executor", "verifier"),
    doc="Every transition of every recommendation, append-only; decision_log is a view of it.",
    columns=(
        Column("event_id", STRING, "UUIDv5 of recommendation, transition and attempt"),
        Column("recommendation_id", STRING, "the recommendation"),
        Column("sequence", INT, "position within the recommendation, from 0"),
        Column("from_status", STRING, "state before, null for the first", nullable=True),
        Column("to_status", STRING, "state after"),
        Column("agent", STRING, "agent that wrote the event"),
        Column("actor", STRING, "who decided: an agent or an account"),
        Column("role", STRING, "role the actor acted in", nullable=True),
        Column("reason", STRING, "why"),
        Column("plan_hash", STRING, "plan the event is bound to", nullable=True),
        Column("policy_version", INT, "policy in force", nullable=True),
        Column("payload", STRING, "JSON: the proposal's fields on 'proposed', references on others", nullable=True),
        Column("occurred_at", TIMESTAMP, "when"),
    ),
)

APPROVALS = TableSpec(
    name="approvals",
    home="books",
    key=("approval_id",),
    writers=("governance",),
    doc="One row per signature of a person on a plan, append-only; what the transitions of decision_events rest on.",
    columns=(
        Column("approval_id", STRING, "UUIDv5 of recommendation, plan, signer, role, verdict and count"),
        Column("recommendation_id", STRING, "the recommendation"),
        Column("plan_hash", STRING, "the plan that was signed; another plan needs another signature"),
        Column("signer", STRING, "account that signed"),
        Column("role", STRING, "role it signed in: team-lead or platform"),
        Column("verdict", STRING, "approve or reject"),
        Column("reason", STRING, "why"),
        Column("policy_version", INT, "policy in force; a signature counts under this one only"),
        Column("signed_at", TIMESTAMP, "when"),
        Column(
            "expires_at", TIMESTAMP, "first instant an approval counts no more; a rejection never ends", nullable=True
        ),
    ),
)

EXECUTIONS = TableSpec(
    name="executions",
    home="lake",
    partition="day",
    time_column="executed_at",
    key=("recommendation_id", "attempt"),
    writers=("executor",),
    doc="What was changed outside, attempt by attempt, with the frozen baseline.",
    columns=(
        Column("recommendation_id", STRING, "the recommendation"),
        Column("attempt", INT, "1, 2, ..."),
        Column("target", STRING, "simulated scheduler, kubernetes, pull request, ..."),
        Column("status", STRING, "applied, rolled_back, failed, refused"),
        Column("execution_ref", STRING, "URL or id outside", nullable=True),
        Column("plan_hash", STRING, "approved plan"),
        Column("baseline", STRING, "JSON snapshot frozen before acting"),
        Column("detail", STRING, "JSON: change, read-back, rollback", nullable=True),
        Column("executed_at", TIMESTAMP, "when it took effect"),
    ),
)

OUTCOMES = TableSpec(
    name="outcomes",
    home="lake",
    partition="day",
    time_column="executed_on",
    key=("outcome_id",),
    writers=("verifier",),
    doc="What each executed recommendation truly saved, with interval, status and evidence.",
    columns=(
        Column("outcome_id", STRING, "UUIDv5 of recommendation and restatement"),
        Column("decision_id", STRING, "the 'executed' event"),
        Column("recommendation_id", STRING, "the recommendation"),
        Column("executed_on", TIMESTAMP, "day of execution"),
        Column("measured_carbon_delta_kg", FLOAT, "actual - counterfactual", "kgCO2e", True),
        Column("counterfactual_carbon_kg", FLOAT, "original region and time, actual usage", "kgCO2e", True),
        Column("actual_carbon_kg", FLOAT, "as it ran", "kgCO2e", True),
        Column("carbon_ci_lower", FLOAT, "ci90 of the delta (accounting interval)", "kgCO2e", True),
        Column("carbon_ci_upper", FLOAT, "ci90 of the delta (accounting interval)", "kgCO2e", True),
        Column("plan_ci_lower", FLOAT, "ci90 of the delta (plan interval)", "kgCO2e", True),
        Column("plan_ci_upper", FLOAT, "ci90 of the delta (plan interval)", "kgCO2e", True),
        Column("measured_cost_delta_usd", FLOAT, "actual bill - counterfactual bill", "USD", True),
        Column("sla_compliant", BOOL, "SLA kept", nullable=True),
        Column("sla_detail", STRING, "JSON", nullable=True),
        Column("verification_method", STRING, "counterfactual/v2, diff_in_diff, synthetic_control"),
        Column("evidence_chain", STRING, "SHA-256 of the evidence bundle", nullable=True),
        Column("verification_status", STRING, "confirmed, partial, refuted, inconclusive, disqualified"),
        Column("reason", STRING, "named gate when disqualified", nullable=True),
        Column("credited_kg", FLOAT, "Euler share of the portfolio's lower bound", "kgCO2e", True),
        Column("sensitivities", STRING, "JSON: named factor -> dS/dln f in kg", nullable=True),
        Column(
            "scaled_sensitivities", STRING, "JSON: named factor -> the same times the spread of ln f", nullable=True
        ),
        Column("team_id", STRING, "team; with the month, the portfolio that credit is a share of"),
        Column("month", TIMESTAMP, "first of the month of executed_on"),
        Column("runs", INT, "runs with metered usage", "runs"),
        Column("claimed_delta_kg", FLOAT, "what was promised, after - before", "kgCO2e", True),
        Column("leakage_kg", FLOAT, "emitted elsewhere because of the move; taken off the saving", "kgCO2e", True),
        Column("leakage_detail", STRING, "JSON: component -> kg, or the reason why it is zero", nullable=True),
        Column("spatial_savings_kg", FLOAT, "Shapley part of the gross saving: another region", "kgCO2e", True),
        Column("temporal_savings_kg", FLOAT, "Shapley part of the gross saving: another time", "kgCO2e", True),
        Column("energy_savings_kg", FLOAT, "Shapley part of the gross saving: another energy", "kgCO2e", True),
        Column("usage_savings_kg", FLOAT, "LMDI part of the gross saving: usage", "kgCO2e", True),
        Column("pue_savings_kg", FLOAT, "LMDI part of the gross saving: PUE", "kgCO2e", True),
        Column("intensity_savings_kg", FLOAT, "LMDI part of the gross saving: grid intensity", "kgCO2e", True),
        Column("decomposition_method", STRING, "how the parts were split", nullable=True),
        Column(
            "seed_savings_kg", FLOAT, "the founding design's term: another region at the actual time", "kgCO2e", True
        ),
        Column("carbon_sd_kg", FLOAT, "standard deviation of the saving, to first order", "kgCO2e", True),
        Column("uncertainty_method", STRING, "linear or monte_carlo", nullable=True),
        Column("carbon_bounds_lower", FLOAT, "guaranteed box of the delta", "kgCO2e", True),
        Column("carbon_bounds_upper", FLOAT, "guaranteed box of the delta", "kgCO2e", True),
        Column(
            "fractional_uncertainty", FLOAT, "half-width of ci90 over the saving; null where it is <= 0", "ratio", True
        ),
        Column("signal", STRING, "grid signal of both sides: average or marginal"),
        Column("signal_method", STRING, "its method on both sides: direct or lifecycle"),
        Column("consequential_delta_kg", FLOAT, "the same with a second signal; never added", "kgCO2e", True),
        Column("consequential_signal", STRING, "the second signal and its method", nullable=True),
    ),
)


def _learned(name: str, doc: str) -> TableSpec:
    return TableSpec(
        name=name,
        home="lake",
        partition="week",
        time_column="week",
        key=("week", "scope", "metric"),
        writers=("learner",),
        doc=doc,
        columns=(
            Column("week", TIMESTAMP, "Monday, 00:00 UTC"),
            Column("scope", STRING, "what it is about: action type, region, team, arm, ..."),
            Column("metric", STRING, "name of the figure"),
            Column("value", FLOAT, "figure", nullable=True),
            Column("n", INT, "observations behind it"),
            Column("state", STRING, "JSON state to continue from", nullable=True),
        ),
    )


CALIBRATION = _learned("calibration", "Coverage and widening of plan intervals, on executed actions only.")
STRATEGY_POSTERIORS = _learned("strategy_posteriors", "Two-part bandit posteriors by arm and context.")
DRIFT_REPORT = _learned("drift_report", "Forecast, factor and acceptance drift by region and team.")

POINTS_LEDGER = TableSpec(
    name="points_ledger",
    home="books",
    key=("entry_id",),
    writers=("copilot",),
    doc="Points by team, append-only; grams are booked, whole points are shown per team and month.",
    columns=(
        Column("entry_id", STRING, "UUIDv5 of outcome and kind"),
        Column("team_id", STRING, "team"),
        Column("outcome_id", STRING, "the verified outcome"),
        Column("points", INT, "whole points, as in the founding design"),
        Column("grams", FLOAT, "verified grams booked, signed", "gCO2e"),
        Column("reason", STRING, "why"),
        Column("awarded_at", TIMESTAMP, "when"),
    ),
)

NUDGES = TableSpec(
    name="nudges",
    home="books",
    key=("entry_id",),
    writers=("copilot",),
    doc="Messages sent to developers, append-only: what, when, which format, and what came of it.",
    columns=(
        Column("entry_id", STRING, "UUIDv5 of recipient, week and slot"),
        Column("recipient", STRING, "account the nudge went to"),
        Column("team_id", STRING, "team"),
        Column("format", STRING, "A/B arm"),
        Column("subject_ref", STRING, "what it is about"),
        Column("event", STRING, "sent, opened, acted, muted"),
        Column("occurred_at", TIMESTAMP, "when"),
    ),
)

POLICIES = TableSpec(
    name="policies",
    home="books",
    key=("policy_id", "version"),
    writers=("governance",),
    doc="Typed policy versions, append-only; policy_reviews says which are approved.",
    columns=(
        Column("policy_id", STRING, "policy"),
        Column("version", INT, "1, 2, ..."),
        Column("document", STRING, "canonical JSON of the typed policy"),
        Column("document_hash", STRING, "SHA-256 of document"),
        Column("author", STRING, "who wrote it"),
        Column(
            "approved_by",
            STRING,
            "'release' on a first version that came with it; else null, see policy_reviews",
            nullable=True,
        ),
        Column("valid_from", TIMESTAMP, "first instant it applies"),
        Column("created_at", TIMESTAMP, "when it was written"),
    ),
)

POLICY_REVIEWS = TableSpec(
    name="policy_reviews",
    home="books",
    key=("review_id",),
    writers=("governance",),
    doc="One row per signature of a person on a policy version, append-only; a version is in force by these.",
    columns=(
        Column("review_id", STRING, "UUIDv5 of policy, version, signer, verdict and policy_version"),
        Column("policy_id", STRING, "policy"),
        Column("version", INT, "version that was signed"),
        Column("document_hash", STRING, "SHA-256 of the document that was signed"),
        Column("signer", STRING, "account that signed"),
        Column("role", STRING, "role it signed in: team-lead or platform"),
        Column("verdict", STRING, "approve or reject"),
        Column("reason", STRING, "why"),
        Column("policy_version", INT, "version in force when it was signed; a signature counts under this one only"),
        Column("signed_at", TIMESTAMP, "when"),
    ),
)

ALERTS = TableSpec(
    name="alerts",
    home="books",
    key=("alert_id", "sequence"),
    writers=AGENTS,
    doc="What people should look at, append-only: an alert is raised once and acknowledged by a later event.",
    columns=(
        Column("alert_id", STRING, "UUIDv5 of kind and subject: the same finding raises one alert"),
        Column("sequence", INT, "0 raised, 1 acknowledged"),
        Column("event", STRING, "raised or acknowledged"),
        Column("kind", STRING, "policy_changed, policy_proposed, approval_wanted, ..."),
        Column("subject", STRING, "what it is about: a policy version, a recommendation, ..."),
        Column("text", STRING, "what a person should know; on an acknowledgement, what they say"),
        Column("agent", STRING, "agent that wrote the event"),
        Column("actor", STRING, "who raised or acknowledged it: an agent or an account"),
        Column("occurred_at", TIMESTAMP, "when"),
    ),
)

OUTBOX = TableSpec(
    name="outbox",
    home="books",
    key=("intent_id", "sequence"),
    writers=("executor",),
    doc="Intents and their results, append-only: what makes execution happen exactly once.",
    columns=(
        Column("intent_id", STRING, "UUIDv5 of recommendation and change: the idempotency key"),
        Column("sequence", INT, "0 intent, 1.. attempts and result"),
        Column("recommendation_id", STRING, "the recommendation"),
        Column("state", STRING, "intended, attempting, done, rolled_back, failed"),
        Column("payload", STRING, "JSON: the exact change, or its result"),
        Column("occurred_at", TIMESTAMP, "when"),
    ),
)

ACCESS_LOG = TableSpec(
    name="access_log",
    home="books",
    key=("entry_id",),
    writers=AGENTS,
    doc="Who read or wrote what, append-only, refusals included.",
    columns=(
        Column("entry_id", STRING, "random id"),
        Column("agent", STRING, "agent or role"),
        Column("table_name", STRING, "table"),
        Column("verb", STRING, "read, write, propose, approve, execute, verify"),
        Column("allowed", BOOL, "whether it was allowed"),
        Column("detail", STRING, "range or key", nullable=True),
        Column("occurred_at", TIMESTAMP, "when"),
    ),
)

LOG_COMMITMENTS = TableSpec(
    name="log_commitments",
    home="books",
    key=("leaf_index",),
    writers=AGENTS,
    doc="Leaves of the transparency log (RFC 6962), append-only.",
    columns=(
        Column("leaf_index", INT, "position in the tree, from 0"),
        Column("kind", STRING, "partition, decision, approval, policy, factor, baseline, bundle, ..."),
        Column("subject", STRING, "what is committed to: table and version, or the key of a row"),
        Column("leaf", STRING, "RFC 8785 canonical JSON of kind, subject and digests"),
        Column("leaf_hash", STRING, "SHA-256 over a zero byte and the leaf, hexadecimal"),
        Column("committed_at", TIMESTAMP, "when; not part of the leaf"),
    ),
)


def _monthly(name: str, writer: Agent, doc: str) -> TableSpec:
    return TableSpec(
        name=name,
        home="lake",
        partition="month",
        time_column="month",
        key=("month", "section", "item"),
        writers=(writer,),
        doc=doc,
        columns=(
            Column("month", TIMESTAMP, "first of the month, 00:00 UTC"),
            Column("section", STRING, "part of the report"),
            Column("item", STRING, "what the line is about"),
            Column("value", FLOAT, "figure", nullable=True),
            Column("finding", STRING, "text", nullable=True),
            Column("severity", STRING, "info, warning or finding"),
        ),
    )


AUDIT_REPORT = _monthly("audit_report", "governance", "Monthly audit: counts, refusals, proofs, gaps.")
FACTOR_REVIEW = _monthly("factor_review", "accountant", "Monthly review of the factor store: age, disagreement.")

TABLES: Mapping[str, TableSpec] = {
    t.name: t
    for t in (
        ACTIVITY_LEDGER,
        QUARANTINE,
        INGEST_COUNTS,
        GRID_INTENSITY,
        EMISSIONS,
        EMISSION_FACTORS,
        FACTOR_REVIEWS,
        GRID_FORECAST,
        UPCOMING_JOBS,
        RECOMMENDATIONS,
        PLACEMENTS,
        DECISION_EVENTS,
        APPROVALS,
        EXECUTIONS,
        OUTCOMES,
        CALIBRATION,
        STRATEGY_POSTERIORS,
        DRIFT_REPORT,
        POINTS_LEDGER,
        NUDGES,
        POLICIES,
        POLICY_REVIEWS,
        ALERTS,
        OUTBOX,
        ACCESS_LOG,
        LOG_COMMITMENTS,
        AUDIT_REPORT,
        FACTOR_REVIEW,
    )
}


def tables(home: Home | None = None) -> Iterable[TableSpec]:
    """All declared tables, or those of one home."""
    return (t for t in TABLES.values() if home is None or t.home == home)
