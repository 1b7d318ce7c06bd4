"""What the jobs emitted: the stated model on the observed signal, and the hidden truth.

Belongs here: kWh and kg per job for scoring, by the founding design's model ``simple/v1``:

    kg = (vCPUs x 0.005 kW + GPUs x 0.3 kW) x hours x PUE 1.1 x intensity, hour by hour.

The truth multiplies power and PUE by the hidden errors of truth.py and takes the true intensity. Network energy
and embodied carbon are not in it.
"""

from __future__ import annotations

import numpy as np

from sust_dagster.simulator.carbon import GridSource
from sust_dagster.simulator.clock import HOUR_S
from sust_dagster.simulator.instances import INSTANCES
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.runs import Runs, slices_of
from sust_dagster.simulator.streams import Floats
from sust_dagster.simulator.truth import FactorErrors

KW_PER_VCPU = 0.005
KW_PER_GPU = 0.3
PUE = 1.1


def stated_kw() -> Floats:
    """IT power of each instance type by the model, kW."""
    return np.array([x.vcpus * KW_PER_VCPU + x.gpus * KW_PER_GPU for x in INSTANCES])


def per_job(runs: Runs, grid: GridSource, errors: FactorErrors | None, *, observed: bool) -> tuple[Floats, Floats]:
    """Facility kWh and kg of each whole run, each of shape ``(jobs,)``.

    ``errors=None`` leaves power and PUE as stated; ``observed`` takes the observed intensity instead of the true.
    """
    n = len(runs)
    if n == 0:
        return np.zeros(0), np.zeros(0)
    first, last = int(runs.started_s.min()) // HOUR_S, int(runs.ended_s.max() - 1) // HOUR_S + 1
    hours = np.arange(first, last, dtype=np.int64)
    intensity = grid.observed(hours).intensity if observed else grid.true_g_per_kwh(hours)
    power_error, pue_error = 1.0, np.ones(len(REGION_IDS))
    if errors is not None:
        power_error, pue_error = errors.power(), np.array([errors.pue(r) for r in REGION_IDS])
    facility_kw = (stated_kw() * power_error)[runs.instance] * (PUE * pue_error)[runs.region]
    cut = slices_of(runs, first, last)
    # bincount adds in the order of the hours, so a job's total does not depend on the range asked for.
    run_hours = (runs.ended_s - runs.started_s) / HOUR_S
    weighted = np.bincount(cut.job, cut.usage_hours * intensity[cut.hour - first, runs.region[cut.job]], minlength=n)
    return facility_kw * run_hours, facility_kw * weighted / 1000.0


def by_hour(runs: Runs, grid: GridSource, errors: FactorErrors, first: int, last: int) -> tuple[Floats, Floats]:
    """Stated (on the observed signal) and true kg of what ran in each of the hours ``[first, last)``."""
    hours = np.arange(first, last, dtype=np.int64)
    cut = slices_of(runs, first, last)
    at = cut.hour - first
    kw = (stated_kw() * PUE)[runs.instance[cut.job]] * cut.usage_hours
    region = runs.region[cut.job]
    error = errors.power() * np.array([errors.pue(r) for r in REGION_IDS])[region]
    stated = np.bincount(at, kw * grid.observed(hours).intensity[at, region], minlength=len(hours)) / 1000.0
    true = np.bincount(at, kw * error * grid.true_g_per_kwh(hours)[at, region], minlength=len(hours)) / 1000.0
    return stated, true
