"""The organisation: 100 developers in 8 teams, service tiers, and the list of 60 recurring workloads.

Belongs here: the fixed lists. Names, rates, tiers and homes do not depend on the seed, so worlds of different
seeds are comparable; what the seed draws is in workloads.py.

Homes, as shares of each type's jobs in us-east-1 / eu-west-1 / ap-south-1 / us-west-2 / eu-north-1, in %:
CI/CD 60 / 17.5 / 12.5 / 6.25 / 3.75; batch 60 / 20 / 12 / 8 / 0; training 65 / 20 / 15 / 0 / 0; dev/test
62 / 14 / 14 / 10 / 0; production (of 30 services) 17 / 7 / 3 / 2 / 1 services. Five workloads with regulated data
may run in the EU only.
"""

from __future__ import annotations

from typing import Literal

JobTypeName = Literal["ci_cd", "batch_analytics", "model_training", "dev_test", "production"]
Rhythm = Literal["work", "morning", "night", "steady", "always"]


#: Policy: the service tier decides the category. Bills carry the tier only, so nobody declares a job deferrable.
TIER_CATEGORY: dict[str, str] = {
    "production": "urgent",
    "ci-blocking": "urgent",
    "ci": "balanced",
    "batch-reporting": "balanced",
    "ci-nightly": "sustainable",
    "batch": "sustainable",
    "training": "sustainable",
    "dev-test": "sustainable",
}

#: Tiers whose jobs may be interrupted and restarted.
SPOT_TIERS = frozenset({"ci", "ci-nightly", "batch", "batch-reporting", "training"})

#: Team and number of developers: 100 in all. Accounts are dev-001 to dev-100 in this order.
TEAMS: tuple[tuple[str, int], ...] = (
    ("checkout", 14),
    ("search", 13),
    ("payments", 13),
    ("platform", 12),
    ("data", 12),
    ("ml", 12),
    ("mobile", 12),
    ("growth", 12),
)
TEAM_IDS: tuple[str, ...] = tuple(name for name, _ in TEAMS)
DEVELOPERS: tuple[str, ...] = tuple(f"dev-{k + 1:03d}" for k in range(sum(size for _, size in TEAMS)))

RHYTHM_OF_TIER: dict[str, Rhythm] = {
    "production": "always",
    "ci-nightly": "night",
    "batch": "night",
    "training": "steady",
    "batch-reporting": "work",
    "ci": "work",
    "ci-blocking": "work",
    "dev-test": "morning",
}
EU_ONLY = ("eu-west-1", "eu-north-1")

# workload_id, service, team, job type, tier, home, jobs per day, EU only
WorkloadRow = tuple[str, str, str, JobTypeName, str, str, float, bool]
JOB_WORKLOADS: tuple[WorkloadRow, ...] = (
    ("ci-checkout-build", "checkout", "checkout", "ci_cd", "ci", "us-east-1", 110, False),
    ("ci-search-build", "search", "search", "ci_cd", "ci", "us-east-1", 90, False),
    ("ci-payments-build", "payments", "payments", "ci_cd", "ci", "eu-west-1", 80, False),
    ("ci-mobile-build", "mobile-app", "mobile", "ci_cd", "ci", "us-east-1", 80, False),
    ("ci-growth-build", "growth-site", "growth", "ci_cd", "ci", "ap-south-1", 70, False),
    ("ci-platform-build", "platform", "platform", "ci_cd", "ci", "us-west-2", 50, False),
    ("ci-checkout-release", "checkout", "checkout", "ci_cd", "ci-blocking", "us-east-1", 90, False),
    ("ci-payments-release", "payments", "payments", "ci_cd", "ci-blocking", "eu-west-1", 60, False),
    ("ci-platform-release", "platform", "platform", "ci_cd", "ci-blocking", "us-east-1", 60, False),
    ("ci-search-release", "search", "search", "ci_cd", "ci-blocking", "ap-south-1", 30, False),
    ("ci-integration-nightly", "integration", "platform", "ci_cd", "ci-nightly", "us-east-1", 50, False),
    ("ci-mobile-nightly", "mobile-app", "mobile", "ci_cd", "ci-nightly", "eu-north-1", 30, False),
    ("reports-finance", "finance-reports", "data", "batch_analytics", "batch-reporting", "us-east-1", 6, False),
    ("reports-operations", "ops-reports", "data", "batch_analytics", "batch-reporting", "eu-west-1", 4, False),
    ("etl-orders", "warehouse", "data", "batch_analytics", "batch", "us-east-1", 14, False),
    ("etl-clickstream", "clickstream", "growth", "batch_analytics", "batch", "us-east-1", 10, False),
    ("etl-ledger", "ledger", "payments", "batch_analytics", "batch", "eu-west-1", 6, True),
    ("features-refresh", "feature-store", "ml", "batch_analytics", "batch", "ap-south-1", 6, False),
    ("logs-compaction", "log-archive", "platform", "batch_analytics", "batch", "us-west-2", 4, False),
    ("train-ranking", "search-ranking", "ml", "model_training", "training", "us-east-1", 4.0, False),
    ("train-recommender", "recommender", "ml", "model_training", "training", "us-east-1", 2.5, False),
    ("train-fraud", "fraud-model", "payments", "model_training", "training", "eu-west-1", 2.0, True),
    ("train-vision", "visual-search", "ml", "model_training", "training", "ap-south-1", 1.5, False),
    ("dev-checkout", "checkout", "checkout", "dev_test", "dev-test", "us-east-1", 22, False),
    ("dev-search", "search", "search", "dev_test", "dev-test", "us-east-1", 18, False),
    ("dev-platform", "platform", "platform", "dev_test", "dev-test", "us-east-1", 12, False),
    ("dev-data", "warehouse", "data", "dev_test", "dev-test", "us-east-1", 10, False),
    ("dev-payments", "payments", "payments", "dev_test", "dev-test", "eu-west-1", 14, False),
    ("dev-mobile", "mobile-app", "mobile", "dev_test", "dev-test", "ap-south-1", 14, False),
    ("dev-growth", "growth-site", "growth", "dev_test", "dev-test", "us-west-2", 10, False),
)

#: What a workload's runs read: the results of others. A run is promised every result that was there when it was asked
#: for (``dependencies``); nothing else of a job follows from this.
DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "reports-finance": ("etl-ledger", "etl-orders"),
    "reports-operations": ("etl-orders",),
    "train-ranking": ("features-refresh",),
    "train-recommender": ("features-refresh",),
    "train-fraud": ("etl-ledger",),
}

# Production: service, team, home; EU only where the service keeps regulated data.
SERVICES: tuple[tuple[str, str, str, bool], ...] = (
    ("cart", "checkout", "us-east-1", False),
    ("checkout", "checkout", "us-east-1", False),
    ("inventory", "checkout", "us-east-1", False),
    ("pricing", "checkout", "us-east-1", False),
    ("orders", "checkout", "us-east-1", False),
    ("search", "search", "us-east-1", False),
    ("suggest", "search", "us-east-1", False),
    ("catalogue", "search", "us-east-1", False),
    ("search-eu", "search", "eu-west-1", False),
    ("payments", "payments", "eu-west-1", True),
    ("ledger", "payments", "eu-west-1", True),
    ("fraud-scoring", "payments", "eu-west-1", True),
    ("invoicing", "payments", "us-east-1", False),
    ("identity", "platform", "us-east-1", False),
    ("gateway", "platform", "us-east-1", False),
    ("gateway-eu", "platform", "eu-west-1", False),
    ("gateway-in", "platform", "ap-south-1", False),
    ("config", "platform", "us-west-2", False),
    ("events", "data", "us-east-1", False),
    ("warehouse-api", "data", "us-east-1", False),
    ("metrics", "data", "us-west-2", False),
    ("recommender", "ml", "us-east-1", False),
    ("ranking", "ml", "us-east-1", False),
    ("feature-store", "ml", "ap-south-1", False),
    ("mobile-api", "mobile", "us-east-1", False),
    ("mobile-api-eu", "mobile", "eu-west-1", False),
    ("push", "mobile", "eu-north-1", False),
    ("experiments", "growth", "us-east-1", False),
    ("site", "growth", "eu-west-1", False),
    ("notifications", "growth", "ap-south-1", False),
)


def developer_range(team_id: str) -> tuple[int, int]:
    """Positions ``[first, last)`` of a team's developers in :data:`DEVELOPERS`."""
    first = 0
    for name, size in TEAMS:
        if name == team_id:
            return first, first + size
        first += size
    raise ValueError(f"unknown team {team_id!r}")
