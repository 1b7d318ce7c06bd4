"""The mapping that ships: which tags name the team, service, workload, job and tier, and what a tier allows.

Belongs here: defaults only. A project's own mapping file (docs/mapping.md) is laid over them.
"""

from __future__ import annotations

from typing import Any

DEFAULT_MAPPING: dict[str, Any] = {
    "version": 1,
    # Tag keys by field, first one that has a value wins. Case and the separators space - _ . : / do not matter,
    # nor do the prefixes 'user:' and 'tag:' that providers add.
    "tags": {
        "team": ["team", "team-id", "owner-team", "team-name", "squad", "business-unit", "cost-center", "department"],
        "service": ["service", "service-name", "application", "app", "app-name", "project", "component"],
        "workload": ["workload", "workload-id", "job-name", "pipeline", "dag-id", "cronjob"],
        "job": ["job", "job-id", "run-id", "execution-id", "task-id"],
        "tier": ["tier", "service-tier", "workload-tier", "criticality"],
    },
    "rules": [],
    # What a service's tier is by policy. Stronger than a tag that asks for more freedom.
    "services": {},
    # Policy: the tier decides how far work may be moved.
    "tiers": {
        "urgent": [
            "critical", "mission-critical", "production", "prod", "realtime", "real-time", "interactive", "online",
            "tier-0", "tier-1", "gold", "p0", "p1", "ci-blocking", "high",
        ],
        "balanced": [
            "standard", "business", "ci", "staging", "batch-reporting", "reporting", "tier-2", "silver", "p2", "medium",
        ],
        "sustainable": [
            "batch", "ci-nightly", "nightly", "training", "dev-test", "dev", "test", "sandbox", "best-effort",
            "flexible", "deferrable", "offline", "tier-3", "bronze", "p3", "low",
        ],
    },
}  # fmt: skip
