"""The winner's curse in a world made for it: pick what looks best, and see which calibration covers it.

Belongs here: decisions among forecasts with known errors, and the verdict on an interval calibrated on executed
outcomes against one calibrated on all forecasts. Does not belong here: the calibration itself (``plan_interval``).

A decision has 24 slots. What slot j truly saves is log-normal, ``s_j = exp(0.25 z)`` kg; the forecast claims
``s_j exp(e z')``. The slot that claims most is executed. Picking the slot with the lowest forecast intensity is the
same world, mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.calibration.bands import Band, conformal_band
from sust_dagster.agents.verifier.calibration.plan_interval import calibrated_intervals, plan_interval_calibration
from sust_dagster.agents.verifier.calibration.streams import normals

SLOTS = 24
#: Spread of the logarithm of what slots truly save.
SLOT_SPREAD = 0.25
#: Errors of the forecast (standard deviation of the logarithm). Below the second, all forecasts do nearly as well.
FORECAST_ERRORS: tuple[float, ...] = (0.05, 0.15, 0.25)
CURSED_FROM = 0.15
#: With fewer decisions chance hides the curse.
FEWEST_DECISIONS = 2000

_ACTION = "time_shift"


@dataclass(frozen=True)
class SelectionLine:
    """Coverage of executed outcomes by a calibration on executed ones and, the negative control, on all forecasts.

    ``claimed_over_measured``: mean claimed over mean measured saving of executed outcomes.
    """

    forecast_error: float
    calibrated_on: int
    tested_on: int
    executed_share: float
    all_forecasts_share: float
    band_lower: float
    band_upper: float
    claimed_over_measured: float
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.reasons


def decisions(error: float, count: int, seed: int, name: str) -> tuple[pa.Table, pa.Table]:
    """What ``count`` decisions forecast and what was executed: claimed and measured delta, kg, and action type.

    The first table has a row per decision and slot, the second the executed one of each.
    """
    true, miss = (
        normals(seed, f"selection/{error}/{name}/{what}", count * SLOTS).reshape(count, SLOTS)
        for what in ("slots", "forecast")
    )
    measured = np.exp(SLOT_SPREAD * true)
    claimed = measured * np.exp(error * miss)
    picked = np.arange(count), claimed.argmax(axis=1)
    return _outcomes(claimed, measured), _outcomes(claimed[picked], measured[picked])


def _outcomes(claimed: Floats, measured: Floats) -> pa.Table:
    return pa.table(
        {
            "action_type": pa.repeat(_ACTION, claimed.size),
            "claimed_delta_kg": -claimed.reshape(-1),
            "measured_carbon_delta_kg": -measured.reshape(-1),
        }
    )


def score_selection(error: float, worlds: int, seed: int) -> SelectionLine:
    """Calibrate on ``worlds`` decisions (at least :data:`FEWEST_DECISIONS`), both ways, and cover as many new ones."""
    count = max(worlds, FEWEST_DECISIONS)
    forecasts, executed = decisions(error, count, seed, "calibration")
    _, tested = decisions(error, count, seed, "test")
    accepted = conformal_band(count, count)
    claimed, measured = (tested[c].to_numpy() for c in ("claimed_delta_kg", "measured_carbon_delta_kg"))
    line = SelectionLine(
        forecast_error=error,
        calibrated_on=count,
        tested_on=count,
        executed_share=coverage(tested, plan_interval_calibration(executed)),
        all_forecasts_share=coverage(tested, plan_interval_calibration(forecasts)),
        band_lower=accepted.lower,
        band_upper=accepted.upper,
        claimed_over_measured=float(claimed.mean() / measured.mean()),
    )
    reasons = []
    if not Band(accepted.lower, accepted.upper).holds(line.executed_share):
        reasons.append(f"calibrated on executed outcomes it covers {line.executed_share:.3f}")
    if error >= CURSED_FROM and not line.all_forecasts_share < accepted.lower:
        reasons.append(f"negative control: calibrated on all forecasts it covers {line.all_forecasts_share:.3f}")
    return replace(line, reasons=tuple(reasons))


def coverage(outcomes: pa.Table, calibration: pa.Table) -> float:
    """Share of outcomes whose measured delta lies inside the interval the calibration gives their claim."""
    held = calibrated_intervals(outcomes, calibration)
    measured = outcomes["measured_carbon_delta_kg"].to_numpy()
    return float(
        ((held["delta_kg_lower"].to_numpy() <= measured) & (measured <= held["delta_kg_upper"].to_numpy())).mean()
    )
