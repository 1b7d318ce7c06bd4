"""Jobs: one per cadence of the loop.

Belongs here: which assets run together. What they do belongs to the assets; when, to the schedules.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from sust_dagster.orchestration import compaction, reviews, signing

#: How far back late bills and revised grid data are looked for, days.
RECONCILE_DAYS = 3
#: What ``define_asset_job`` returns; the type has no public name.
AssetJob = Any

HOURLY_ASSETS = ("activity_ledger", "quarantine", "ingest_counts", "grid_intensity", "emissions")


DAILY_ASSETS = ("grid_forecast", "upcoming_jobs", "recommendations", "placements", "decision_events")
ACT_ASSETS = ("executions",)
VERIFY_ASSETS = ("outcomes",)


def build(
    hourly: dg.PartitionsDefinition, daily: dg.PartitionsDefinition, *, with_marts: bool = True
) -> list[AssetJob]:
    """The jobs of the loop."""
    jobs: list[AssetJob] = [
        dg.define_asset_job(
            "hourly_sense_and_model",
            selection=dg.AssetSelection.assets(*HOURLY_ASSETS),
            partitions_def=hourly,
            description="Ingest what was billed and account for it; a range of hours runs as one.",
        ),
        dg.define_asset_job(
            "restate_emissions",
            selection=dg.AssetSelection.assets("emissions"),
            partitions_def=hourly,
            description="Account hours again, with the factors active now, from the ledger as it stands.",
        ),
        dg.define_asset_job(
            "daily_plan",
            selection=dg.AssetSelection.assets(*DAILY_ASSETS),
            partitions_def=daily,
            description="Forecast, expect, plan, propose, and decide what needs nobody; people sign the rest.",
        ),
        dg.define_asset_job(
            "execute_approved",
            selection=dg.AssetSelection.assets(*ACT_ASSETS),
            partitions_def=daily,
            description="Carry out what is approved, finish or undo what was begun, and write down what became of it.",
        ),
        dg.define_asset_job(
            "daily_verify",
            selection=dg.AssetSelection.assets(*VERIFY_ASSETS),
            partitions_def=daily,
            description="What executed changes truly saved, once their data is settled; a range of days runs as one.",
        ),
        dg.define_asset_job(
            "factors",
            selection=dg.AssetSelection.assets("emission_factors"),
            description="Install the factors shipped with this release where they are missing.",
        ),
    ]
    jobs += [compaction.build(RECONCILE_DAYS), reviews.build(), signing.build()]
    if with_marts:
        jobs.append(
            dg.define_asset_job(
                "daily_marts",
                selection=dg.AssetSelection.groups("marts"),
                description="Build the marts from everything accounted so far.",
            )
        )
    return jobs
