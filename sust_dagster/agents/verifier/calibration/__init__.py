"""Does a stated 90 % hold the truth in 90 % of worlds? The verifier's figures against hidden truths.

Belongs here: made-up fleets and worlds, acceptance bands, the scorecard, and the calibration of plan intervals from
executed outcomes. Does not belong here: the verification itself, the simulated cloud, any I/O or clock.
"""

from sust_dagster.agents.verifier.calibration.bands import ALPHA, NOMINAL, Band, band, ceiling, conformal_band, wilson
from sust_dagster.agents.verifier.calibration.coverage import LINES, FleetLine, score_fleet, score_observed
from sust_dagster.agents.verifier.calibration.null_fleets import NULL_FLEETS, NullLine, score_null
from sust_dagster.agents.verifier.calibration.plan_interval import (
    CALIBRATED,
    PLAN_CALIBRATION,
    PLAN_REPORT,
    calibrated_intervals,
    plan_interval_calibration,
    plan_interval_report,
)
from sust_dagster.agents.verifier.calibration.scorecard import Scorecard, scorecard
from sust_dagster.agents.verifier.calibration.selection import FORECAST_ERRORS, SelectionLine, score_selection
from sust_dagster.agents.verifier.calibration.worlds import Bounds

__all__ = [
    "ALPHA",
    "CALIBRATED",
    "FORECAST_ERRORS",
    "LINES",
    "NOMINAL",
    "NULL_FLEETS",
    "PLAN_CALIBRATION",
    "PLAN_REPORT",
    "Band",
    "Bounds",
    "FleetLine",
    "NullLine",
    "Scorecard",
    "SelectionLine",
    "band",
    "calibrated_intervals",
    "ceiling",
    "conformal_band",
    "plan_interval_calibration",
    "plan_interval_report",
    "score_fleet",
    "score_null",
    "score_observed",
    "score_selection",
    "scorecard",
    "wilson",
]
