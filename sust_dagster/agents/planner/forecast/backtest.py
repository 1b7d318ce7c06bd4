"""What a model would have been worth: its forecasts at past issues, scored against what then happened.

Belongs here: issues, bands, one row of scores per region, model, band and period. Does not belong here: the formulas
(``score``) or the forecasts (``issue``, called exactly as for a forecast of today).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.accountant.quality import merge
from sust_dagster.agents.planner.forecast.errors import ForecastError
from sust_dagster.agents.planner.forecast.issue import Issued, issue
from sust_dagster.agents.planner.forecast.known import NO_TIME_SHIFT
from sust_dagster.agents.planner.forecast.models import MODELS, Model, named_model
from sust_dagster.agents.planner.forecast.score import scores
from sust_dagster.agents.planner.forecast.series import Ints, Region, read_history
from sust_dagster.agents.planner.forecast.table import HISTORY_DAYS, hour_of
from sust_dagster.world.schemas import FLOAT, INT, STRING

#: Bands of hours after the issue, first and last.
BANDS: Mapping[str, tuple[int, int]] = {"h1-24": (0, 24), "h25-48": (24, 48)}
HORIZON_HOURS = 48

#: One row per region, model, band and period. kg are kgCO2e/kWh; definitions in ``score``.
BACKTEST = pa.schema(
    [
        ("region", STRING),
        ("model", STRING),
        ("band", STRING),
        ("period", STRING),
        ("issues", INT),
        ("hours", INT),
        ("mape_percent", FLOAT),
        ("mae_kgco2_kwh", FLOAT),
        ("bias_kgco2_kwh", FLOAT),
        ("coverage80_percent", FLOAT),
        ("coverage90_percent", FLOAT),
        ("width80_percent", FLOAT),
        ("width90_percent", FLOAT),
        ("oracle_gain_kgco2_kwh", FLOAT),
        ("captured_percent", FLOAT),
        ("issues_fallback", INT),
        ("quality", STRING),
    ]
)

#: Name of the row over all issues.
ALL = "all"


def backtest(
    history: pa.Table,
    issues: Sequence[datetime],
    models: Sequence[str | Model] = tuple(MODELS),
    *,
    lag_hours: int = 0,
    by_month: bool = False,
) -> pa.Table:
    """Scores of models at past issues, in :data:`BACKTEST`: by region, model, band and period (and month of issue).

    ``history`` as for :func:`forecast`; ``issues``: whole UTC hours; ``models``: names of ``MODELS``, or models. Each
    issue sees only what was known then, fallbacks included; ``issues_fallback`` counts those that another method than
    the model's answered (or none did), and these are scored as answered. ``quality`` names what keeps a series from
    earning time-shift savings. A score that is not defined is null. Raises :class:`ForecastError`.
    """
    named = [named_model(model) for model in models]
    at = np.unique(np.array([hour_of(moment) for moment in issues], dtype=np.int64))
    if not len(at):
        return BACKTEST.empty_table()
    found = read_history(history, int(at.max()) + HORIZON_HOURS, int(at.min()) - HISTORY_DAYS * 24)
    periods = _periods(at, by_month)
    rows: list[dict] = []
    for region, series in found.items():
        actual = actuals(series, at, HORIZON_HOURS)
        for name, model in named:
            made = issue(series, at, HORIZON_HOURS, lag_hours, name, model)
            rows += _Judged(region, name, actual, made).rows(periods)
    return pa.Table.from_pylist(rows, schema=BACKTEST)


def backtest_grid(
    history: pa.Table,
    *,
    hour: int = 3,
    days: int = 365,
    models: Sequence[str | Model] = tuple(MODELS),
    lag_hours: int = 0,
    by_month: bool = False,
) -> pa.Table:
    """:func:`backtest` over the last ``days`` issues at ``hour`` UTC whose two days ahead the history holds.

    What stands before them is what the first of them learns from. Raises :class:`ForecastError` where the history holds
    no such issue.

    Example::

        table = backtest_grid(hourly(open_grid(paths), start, end, regions).table, days=90)
    """
    if not 0 <= hour <= 23:
        raise ForecastError(f"hour is {hour}", fix="give 0 to 23 UTC")
    if history.num_rows == 0:
        raise ForecastError("the history is empty", fix="give hourly intensities")
    hours = history["ts"].cast(pa.int64()).to_numpy() // HOUR_US
    last = int(hours.max()) + 1 - HORIZON_HOURS
    last -= (last - hour) % 24
    first = max(last - 24 * (days - 1), int(hours.min()) + 24 + (hour - int(hours.min())) % 24)
    if days < 1 or first > last:
        raise ForecastError(
            f"the history holds {int(hours.max() - hours.min()) + 1} hours: no issue at {hour:02d}:00 UTC has a day "
            "before it and two after it",
            fix="give more hours",
        )
    issues = [datetime.fromtimestamp(h * 3600, UTC) for h in range(first, last + 1, 24)]
    return backtest(history, issues, models, lag_hours=lag_hours, by_month=by_month)


def actuals(region: Region, issues: Ints, hours: int) -> Floats:
    """Own hours of a region after each issue, kgCO2e/kWh: shape (issues, hours), NaN where not known.

    Values that stood in for others are nobody's actual.
    """
    out = np.full((len(issues), hours), np.nan)
    if region.own is None:
        return out
    at = issues[:, None] + np.arange(hours) - region.own.first
    inside = (at >= 0) & (at < len(region.own.values))
    out[inside] = region.own.values[at[inside]]
    return out


def _periods(issues: Ints, by_month: bool) -> dict[str, Ints]:
    """Period → positions of its issues."""
    periods = {ALL: np.arange(len(issues))}
    if by_month:
        start = datetime(1970, 1, 1, tzinfo=UTC)
        months = np.array([f"{start + timedelta(hours=h):%Y-%m}" for h in issues.tolist()])
        periods |= {month: np.flatnonzero(months == month) for month in sorted(set(months.tolist()))}
    return periods


@dataclass(frozen=True)
class _Judged:
    """One region's forecasts by one model, and what happened."""

    region: str
    model: str
    actual: Floats
    made: Issued

    def rows(self, periods: Mapping[str, Ints]) -> list[dict]:
        answered = np.array([m.startswith(self.model) for m in self.made.method])
        rows = []
        for period, at in periods.items():
            quality = merge(*(f for i in at.tolist() for f in self.made.quality[i].split(";") if f in NO_TIME_SHIFT))
            for band, (first, last) in BANDS.items():
                hours = slice(first, last)
                found = scores(self.actual[at, hours], self.made.point[at, hours], self.made.bounds[:, at, hours])
                plain = {k: None if v != v else v for k, v in asdict(found).items()}
                rows.append(
                    {
                        "region": self.region,
                        "model": self.model,
                        "band": band,
                        "period": period,
                        "mae_kgco2_kwh": plain.pop("mae"),
                        "bias_kgco2_kwh": plain.pop("bias"),
                        "oracle_gain_kgco2_kwh": plain.pop("oracle_gain"),
                        **plain,
                        "issues_fallback": int((~answered[at]).sum()),
                        "quality": quality,
                    }
                )
        return rows
