"""What a simulated project's totals should be, from the founding design's table.

Belongs here: the expectation, computed from the workload catalogue by the design's formula and from nothing that the
pipeline made. Checks compare the accounted totals with it.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow.compute as pc

from sust_dagster.connectors.schedulers.placement_file import placements_path, read_rows
from sust_dagster.connectors.sources import fake_cloud
from sust_dagster.settings import Project
from sust_dagster.simulator.baseline import baseline_summary


def seed_formula_kg(project: Project, start: datetime, end: datetime) -> float:
    """kgCO2e of the jobs requested in ``[start, end)`` by the design's formula (mean hours, mean intensity)."""
    table = baseline_summary(fake_cloud(project), start, end)
    return float(table.filter(pc.equal(table.column("job_type"), "all")).column("kg_formula")[0].as_py())


def placed_runs(project: Project) -> int:
    """How many placements are in force in the project's fake cloud: 0 as long as nothing was carried out."""
    return read_rows(placements_path(project.root)).num_rows
