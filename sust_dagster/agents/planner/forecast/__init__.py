"""Forecasts of grid intensity with intervals, and what they are worth.

Belongs here: hourly intensity of the next days by region, from what was known at the time; peers to measure against;
scores by decision value. Does not belong here: reading a grid source (``connectors.grid``), plans, any I/O or clock.

``forecast`` for one issue, ``forecasts`` for several, ``backtest_grid`` for the scores of a grid file's last year.
"""

from sust_dagster.agents.planner.forecast.backtest import BACKTEST, backtest, backtest_grid
from sust_dagster.agents.planner.forecast.errors import ForecastError
from sust_dagster.agents.planner.forecast.known import NO_TIME_SHIFT
from sust_dagster.agents.planner.forecast.models import MODELS
from sust_dagster.agents.planner.forecast.table import HISTORY_DAYS, MISSING, Forecast, forecast, forecasts

__all__ = [
    "BACKTEST",
    "HISTORY_DAYS",
    "MISSING",
    "MODELS",
    "NO_TIME_SHIFT",
    "Forecast",
    "ForecastError",
    "backtest",
    "backtest_grid",
    "forecast",
    "forecasts",
]
