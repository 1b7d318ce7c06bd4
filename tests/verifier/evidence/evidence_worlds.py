"""A small project with executed changes of every kind, verified, with its evidence: lake, books and log are real."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.connectors.sources import fake_cloud
from sust_dagster.orchestration.evidence_desk import write_evidence
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import VerificationDesk, VerifiedDay, outcome_rows
from sust_dagster.settings import SIMULATION_START, Project, simulated_project
from sust_dagster.world.access import World
from sust_dagster.world.canonical import canonical_json, content_hash
from sust_dagster.world.decisions import Transition, plan_hash
from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import TABLES

START = SIMULATION_START
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = START + 8 * DAY
REGIONS = ("us-east-1", "us-west-2", "eu-north-1")
SKU = "m5.4xlarge"


@dataclass(frozen=True)
class Kind:
    """What is done to the runs of one outcome, and what is odd about their rows."""

    region: str = "eu-north-1"
    shift_hours: float = 0.0
    vcpus_scale: float = 1.0
    team: str = "checkout"
    risk: str = "low"
    egress: bool = False
    oddity: str = ""


KINDS: dict[str, Kind] = {
    "region": Kind(egress=True),
    "time": Kind("home", 3.4),
    "both": Kind("us-west-2", 5.0, risk="high"),
    "size": Kind("home", 0.0, 0.5, team="search"),
    "back": Kind("us-east-1", -0.3, team="search"),
    "memory": Kind(oddity="memory"),
    "idle": Kind(oddity="idle"),
    "no energy": Kind(oddity="no energy"),
    "no runs": Kind(oddity="no runs"),
    "unbilled": Kind("us-west-2", 1.0, oddity="unbilled"),
}


def make_project(root: Path, seed: int = 7) -> Project:
    """A project in which each kind of change was executed on the first day, settled, without a verification."""
    project = simulated_project(root, days=5, seed=seed)
    project.save()
    with ProjectResource(root=str(project.root)) as resource:
        resource.install_factors()
        _fill(resource, random.Random(seed))
    return project


#: A run of ``reports-finance``, which reads what ``etl-orders`` and ``etl-ledger`` make, and one of its inputs.
READER, INPUT = ("reports-finance", START + 13 * HOUR), ("etl-orders", START + 9 * HOUR)


def make_reader(root: Path, input_shift_hours: float | None) -> Project:
    """A project in which one change moved READER, and INPUT was put off by some hours, or has no usage at all (None).

    All else that READER may wait for ran when it was asked for.
    """
    project = simulated_project(root, days=5, seed=7)
    project.save()
    draw = random.Random(7)
    with ProjectResource(root=str(project.root)) as resource:
        resource.install_factors()
        world = resource.world
        grid = _grid(draw)
        world.handle("accountant").write_lake("grid_intensity", grid, START - DAY, START + 4 * DAY)
        grams = {(r["region"], r["ts"]): r["intensity_kgco2_kwh"] for r in grid.to_pylist()}
        placements = _decide(world, "reader", KINDS["region"], [READER])
        usage = []
        for job in fake_cloud(project).jobs(START, START + 14 * HOUR).to_pylist():
            hour = job["requested_at"].replace(minute=0, second=0, microsecond=0)
            key = job["workload_id"], hour
            if key == READER:
                usage += _usage(job, KINDS["region"], draw, grams)
            elif key == INPUT:
                kind = Kind("home", input_shift_hours or 0.0)
                usage += [] if input_shift_hours is None else _usage(job, kind, draw, grams)
            elif job["workload_id"] in ("etl-orders", "etl-ledger"):
                usage += _usage(job, Kind("home"), draw, grams)
        _write(world, "ingestor", "activity_ledger", usage)
        _write(world, "accountant", "emissions", usage)
        table = _conformed("placements", placements)
        world.handle("planner").write_lake("placements", table, START, START + DAY)
    return project


def verify(
    project: Project, *, start: datetime = START, end: datetime = START + DAY, now: datetime = NOW
) -> VerifiedDay:
    """Verify, write the evidence and the outcomes that name it."""
    with ProjectResource(root=str(project.root)) as resource:
        day = VerificationDesk(resource).verify(start, end, now)
        assert day is not None
        evidence = write_evidence(resource, day)
        rows = outcome_rows(day, evidence)
        resource.handle("verifier").write_lake("outcomes", rows, start, end, reason="a test")
    return day


def _fill(resource: ProjectResource, draw: random.Random) -> None:
    world, project = resource.world, resource.project
    jobs = fake_cloud(project).jobs(START + 4 * HOUR, START + 12 * HOUR).to_pylist()
    groups: dict[tuple[str, datetime], list[dict[str, Any]]] = defaultdict(list)
    for job in jobs:
        hour = job["requested_at"].replace(minute=0, second=0, microsecond=0)
        groups[job["workload_id"], hour].append(job)
    at_home = {key: found for key, found in groups.items() if {j["home_region"] for j in found} == {"us-east-1"}}
    chosen = sorted(at_home)[:: max(1, len(at_home) // (2 * len(KINDS)))]
    grid = _grid(draw)
    world.handle("accountant").write_lake("grid_intensity", grid, START - DAY, START + 4 * DAY)
    grams = {(r["region"], r["ts"]): r["intensity_kgco2_kwh"] for r in grid.to_pylist()}
    usage: list[dict[str, Any]] = []
    placements = []
    for i, (name, kind) in enumerate(KINDS.items()):
        keys = chosen[2 * i : 2 * i + 2]
        if kind.oddity == "no runs":
            keys = [("nobody", START + 5 * HOUR)]
        placements += _decide(world, name, kind, keys)
        for key in keys:
            for job in groups.get(key, []):
                usage += _usage(job, kind, draw, grams)
    _write(world, "ingestor", "activity_ledger", usage)
    _write(world, "accountant", "emissions", usage)
    table = _conformed("placements", placements)
    world.handle("planner").write_lake("placements", table, START, START + DAY)


def _grid(draw: random.Random) -> pa.Table:
    rows = []
    for region in REGIONS:
        base = {"us-east-1": 0.4, "us-west-2": 0.3, "eu-north-1": 0.02}[region]
        for h in range(5 * 24):
            value = base * draw.uniform(0.6, 1.4)
            estimated = h % 29 == 0
            hour = 1.2 if estimated else 1.1
            rows.append(
                {
                    "ts": START - DAY + h * HOUR, "region": region, "intensity_kgco2_kwh": value, "signal": "average",
                    "method": "lifecycle", "estimated": estimated, "intensity_lower": value / 1.3,
                    "intensity_upper": value * 1.3, "system_rel_lower": 1 / 1.15, "system_rel_upper": 1.15,
                    "hour_rel_lower": 1 / hour, "hour_rel_upper": hour,
                }
            )  # fmt: skip
    return _conformed("grid_intensity", rows)


def _decide(world: World, name: str, kind: Kind, keys: list[tuple[str, datetime]]) -> list[dict[str, Any]]:
    """Propose, approve and execute one change; the rows of its frozen plan."""
    recommendation, workload = uuid5("test", name), keys[0][0]
    placed = []
    for who, hour in keys:
        placed.append(
            {
                "workload_id": who, "requested_hour": f"{hour:%Y-%m-%dT%H:%M:%SZ}", "region": kind.region,
                "delay_hours": int(kind.shift_hours), "spot": False, "vcpus_scale": kind.vcpus_scale,
                "groups": [f"{who}@us-east-1/4c@{hour:%Y-%m-%dT%HZ}"],
            }
        )  # fmt: skip
    current = canonical_json({"instance_type": SKU, "regions": ["us-east-1"]})
    fields: dict[str, Any] = {
        "workload_id": workload, "team_id": kind.team, "service_tier": "ci", "planned_for": START.isoformat(),
        "issued_at": (START + 3 * HOUR).isoformat(), "objective": "min-carbon", "policy_version": 1,
        "action_type": "region_shift", "current_config": current,
        "proposed_config": canonical_json({"action_type": "region_shift", "vcpus_scale": str(kind.vcpus_scale)}),
        "est_carbon_delta_kg": -0.02, "est_carbon_delta_kg_lower": -0.05, "est_carbon_delta_kg_upper": 0.01,
        "est_cost_delta_usd": 0.1, "cost_before_usd": 2.0, "confidence": 0.9, "workload_category": "sustainable",
        "rationale_text": "cleaner – there", "risk_level": kind.risk,
    }  # fmt: skip
    digest = plan_hash(fields)

    def move(agent: Any, to: str, minute: int, **said: Any) -> None:
        wanted = Transition(recommendation, to, "because", plan_hash=digest, **said)
        world.handle(agent).transitions([wanted], now=START + 3 * HOUR + timedelta(minutes=minute))

    move("planner", "proposed", 0, payload=fields)
    if kind.risk == "high":
        rows = [
            {
                "approval_id": uuid5("signed", name, who), "recommendation_id": recommendation, "plan_hash": digest,
                "signer": who, "role": role, "verdict": "approve", "reason": "looked at it", "policy_version": 1,
                "signed_at": START + 3 * HOUR + timedelta(minutes=5), "expires_at": START + 2 * DAY,
            }
            for who, role in (("ann", "team-lead"), ("bob", "platform"))
        ]  # fmt: skip
        world.handle("governance").append("approvals", rows)
    move("governance", "approved", 10, policy_version=1, payload={"holds_until": (START + DAY).isoformat()})
    intent = uuid5("intent", name)
    baseline = {k: fields[k] for k in ("workload_id", "team_id", "est_carbon_delta_kg", "cost_before_usd")}
    change, before = {"placements": placed}, {"placements": []}
    frozen = {
        "baseline_hash": content_hash(baseline),
        "change_hash": content_hash({"change": change, "before": before}),
    }
    said = {"baseline": baseline, "before": before, "change": change, **frozen}
    at = START + 3 * HOUR + timedelta(minutes=30)
    with world.handle("executor").transaction() as transaction:
        row = {"intent_id": intent, "recommendation_id": recommendation, "occurred_at": at}
        transaction.append("outbox", [row | {"sequence": 0, "state": "intended", "payload": canonical_json(said)}])
        transaction.append("outbox", [row | {"sequence": 1, "state": "done", "payload": "{}"}])
    move("executor", "executing", 30, payload={"intent_id": intent, **frozen})
    move("executor", "executed", 40, payload={"execution_ref": "test"})
    return [{"recommendation_id": recommendation, "job_id": p["groups"][0], "home_region": "us-east-1"} for p in placed]


def _usage(
    job: dict[str, Any], kind: Kind, draw: random.Random, grams: Mapping[tuple[str, datetime], float]
) -> list[dict[str, Any]]:
    region = job["home_region"] if kind.region == "home" else kind.region
    region = region if region in REGIONS else REGIONS[0]
    start = job["requested_at"] + timedelta(hours=kind.shift_hours)
    end = start + timedelta(hours=draw.uniform(0.4, 2.6))
    rows: list[dict[str, Any]] = []

    def add(a: datetime, b: datetime, kwh: float | None, **extra: Any) -> None:
        hour = a.replace(minute=0, second=0, microsecond=0)
        rows.append(
            {
                "activity_id": uuid5("row", job["job_id"], len(rows)), "job_id": job["job_id"], "pue": 1.1,
                "workload_id": job["workload_id"], "cloud_provider": "aws", "region": region, "quality": "ok",
                "resource_type": "compute", "started_at": a, "ended_at": b, "energy_kwh": kwh, "cost_usd": 0.37,
                "kg_location": None if kwh is None else kwh * 1.1 * grams[region, hour],
                "power_factor_key": "power/simple/v1", "provider_pue_factor_key": "pue/simple/v1/aws",
                "region_pue_factor_key": f"pue/simple/v1/aws/{region}", "instance_type": SKU, "vcpus": 16.0,
                "usage_hours": (b - a) / HOUR,
            } | extra
        )  # fmt: skip

    at = start
    while at < end:
        until = min(at.replace(minute=0, second=0, microsecond=0) + HOUR, end)
        kwh = draw.uniform(0.01, 0.2)
        if kind.oddity == "no energy" and not rows:
            add(at, until, None)
        elif kind.oddity == "idle" and not rows:
            add(at, until, 0.0)
        elif kind.oddity == "unbilled" and not rows:
            add(at, until, kwh, cost_usd=None)
        else:
            add(at, until, kwh)
        if kind.oddity == "memory":
            add(at, until, None, quality="ok;memory_in_vcpu", resource_type="memory")
        at = until
    if kind.egress:
        add(start, min(start + HOUR, end), 0.003, resource_type="network", power_factor_key="power/network")
    return rows


def _write(world: World, agent: Any, table: str, rows: list[dict[str, Any]]) -> None:
    world.handle(agent).write_lake(table, _conformed(table, rows), START, START + 3 * DAY)


_PLAIN = {pa.string(): "x", pa.float64(): 1.0, pa.int64(): 1, pa.bool_(): False}


def _conformed(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with the table's columns; what must be there and is not given is any value."""
    columns = {}
    for column in TABLES[table].stored:
        plain = None if column.nullable else _PLAIN.get(column.type, START)
        values = [r.get(column.name, plain) for r in rows]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        columns[column.name] = pc.cast(pa.array(values, kind), column.type)
    return TABLES[table].conform(pa.table(columns))


def document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())
