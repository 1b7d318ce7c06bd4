"""The recurring workloads: job types with the founding design's daily figures, and the catalogue of a seed.

Belongs here: job types (section 6 of the founding design) and what the seed draws for each workload of
organisation.py: owners, data sizes, latency limits and how much of its vCPUs a workload needs. Does not belong
here: single jobs (arrivals.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from sust_dagster.simulator.instances import INSTANCE_INDEX, INSTANCES, Instance
from sust_dagster.simulator.organisation import (
    DEPENDS_ON,
    DEVELOPERS,
    EU_ONLY,
    JOB_WORKLOADS,
    RHYTHM_OF_TIER,
    SERVICES,
    SPOT_TIERS,
    TIER_CATEGORY,
    JobTypeName,
    Rhythm,
    developer_range,
)
from sust_dagster.simulator.regions import region_index
from sust_dagster.simulator.streams import Stream, normal, word


@dataclass(frozen=True)
class JobType:
    """One line of the founding design's workload table.

    ``mean_hours`` is the mean run time and ``cv`` its coefficient of variation (log-normal; 0 is exact).
    The values of ``cv`` and ``data_gb`` (median) are assumptions: what recurs on similar data (training, reports)
    varies less than builds do.
    """

    name: JobTypeName
    jobs_per_day: float
    mean_hours: float
    cv: float
    instance_type: str
    usd_per_job: float
    data_gb: float

    @property
    def instance(self) -> Instance:
        return INSTANCES[INSTANCE_INDEX[self.instance_type]]


JOB_TYPES: dict[str, JobType] = {
    t.name: t
    for t in (
        JobType("ci_cd", 800, 0.2, 0.8, "c5.xlarge", 0.15, 0.5),
        JobType("batch_analytics", 50, 2.0, 0.5, "m5.4xlarge", 2.40, 30.0),
        JobType("model_training", 10, 6.0, 0.3, "p3.2xlarge", 18.00, 80.0),
        JobType("dev_test", 100, 8.0, 0.4, "t3.large", 0.80, 4.0),
        JobType("production", 30, 24.0, 0.0, "m6i.xlarge", 3.50, 20.0),
    )
}


@dataclass(frozen=True)
class Workload:
    """One recurring thing people own and approve changes to.

    ``needed_share`` is the hidden share of its vCPUs the workload really uses: right-sizing below it makes runs
    longer. ``allowed_regions`` is ``None`` where any region will do. ``depends_on`` names the workloads whose results
    its runs read.
    """

    workload_id: str
    service_name: str
    team_id: str
    owner: str
    job_type: JobTypeName
    service_tier: str
    home_region: str
    jobs_per_day: float
    data_gb: float
    sla_latency_ms: float | None
    allowed_regions: tuple[str, ...] | None
    needed_share: float
    rhythm: Rhythm
    depends_on: tuple[str, ...] = ()

    @property
    def type(self) -> JobType:
        return JOB_TYPES[self.job_type]

    @property
    def instance(self) -> Instance:
        return self.type.instance

    @property
    def workload_category(self) -> str:
        return TIER_CATEGORY[self.service_tier]

    @property
    def spot_tolerant(self) -> bool:
        return self.service_tier in SPOT_TIERS

    @property
    def address(self) -> int:
        """Number that addresses the workload in random streams: of its name, not of its place in the list."""
        return word(self.workload_id)


def _latency_limit_ms(tier: str, u: float) -> float | None:
    """Latency limit of a tier, round trip; ``None`` where nobody waits."""
    if tier == "production":
        return (75.0, 100.0, 150.0, 250.0)[int(u * 4)]
    return 300.0 if tier == "ci-blocking" else None


@lru_cache(maxsize=16)
def catalogue(seed: int) -> tuple[Workload, ...]:
    """The 60 workloads of a seed, in a fixed order."""
    rows = JOB_WORKLOADS + tuple(
        (f"svc-{service}", service, team, "production", "production", home, 1.0, eu)
        for service, team, home, eu in SERVICES
    )
    stream = Stream.of(seed, "catalogue")
    made: list[Workload] = []
    for workload_id, service, team, kind, tier, home, rate, eu_only in rows:
        u = stream.uniforms(word(workload_id), np.arange(2))
        first, last = developer_range(team)
        size = float(np.exp(0.5 * normal(u[0, 1], u[0, 2])))
        region_index(home)
        made.append(
            Workload(
                workload_id=workload_id,
                service_name=service,
                team_id=team,
                owner=DEVELOPERS[first + int(u[0, 0] * (last - first))],
                job_type=kind,
                service_tier=tier,
                home_region=home,
                jobs_per_day=rate,
                data_gb=max(0.1, round(JOB_TYPES[kind].data_gb * size, 1)),
                sla_latency_ms=_latency_limit_ms(tier, float(u[0, 3])),
                allowed_regions=EU_ONLY if eu_only else None,
                needed_share=round(0.35 + 0.60 * float(u[1, 0]), 3),
                rhythm=RHYTHM_OF_TIER[tier],
                depends_on=DEPENDS_ON.get(workload_id, ()),
            )
        )
    return tuple(made)


def catalogue_table(workloads: tuple[Workload, ...]) -> pa.Table:
    """The catalogue as people may see it: one row per workload, ``needed_share`` left out."""
    rows = [
        {
            "workload_id": w.workload_id,
            "service_name": w.service_name,
            "team_id": w.team_id,
            "owner": w.owner,
            "job_type": w.job_type,
            "service_tier": w.service_tier,
            "workload_category": w.workload_category,
            "cloud_provider": "aws",
            "home_region": w.home_region,
            "instance_type": w.instance.instance_type,
            "vcpus": float(w.instance.vcpus),
            "gpus": float(w.instance.gpus),
            "gpu_model": w.instance.gpu_model,
            "memory_gib": w.instance.memory_gib,
            "data_gb": w.data_gb,
            "sla_latency_ms": w.sla_latency_ms,
            "spot_tolerant": w.spot_tolerant,
            "allowed_regions": None if w.allowed_regions is None else ",".join(w.allowed_regions),
            "depends_on": ",".join(w.depends_on) or None,
            "jobs_per_day": w.jobs_per_day,
            "mean_duration_hours": w.type.mean_hours,
        }
        for w in workloads
    ]
    return pa.Table.from_pylist(rows, schema=WORKLOAD_SCHEMA)


def metrics_table(seed: int, workloads: tuple[Workload, ...]) -> pa.Table:
    """What monitoring sees of each workload: ``workload_id, utilisation_p95``.

    The 95 % quantile of CPU utilisation is the hidden needed share, read with an error of 3 % of its value.
    """
    stream = Stream.of(seed, "monitoring")
    error = stream.normals(np.array([w.address for w in workloads]))
    seen = np.clip(np.array([w.needed_share for w in workloads]) * (1.0 + 0.03 * error), 0.0, 1.0)
    return pa.table({"workload_id": [w.workload_id for w in workloads], "utilisation_p95": np.round(seen, 3)})


WORKLOAD_SCHEMA = pa.schema(
    {
        "workload_id": pa.string(),
        "service_name": pa.string(),
        "team_id": pa.string(),
        "owner": pa.string(),
        "job_type": pa.string(),
        "service_tier": pa.string(),
        "workload_category": pa.string(),
        "cloud_provider": pa.string(),
        "home_region": pa.string(),
        "instance_type": pa.string(),
        "vcpus": pa.float64(),
        "gpus": pa.float64(),
        "gpu_model": pa.string(),
        "memory_gib": pa.float64(),
        "data_gb": pa.float64(),
        "sla_latency_ms": pa.float64(),
        "spot_tolerant": pa.bool_(),
        "allowed_regions": pa.string(),
        "depends_on": pa.string(),
        "jobs_per_day": pa.float64(),
        "mean_duration_hours": pa.float64(),
    }
)
