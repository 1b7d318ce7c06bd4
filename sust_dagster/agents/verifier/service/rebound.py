"""Rebound: does a team's whole footprint grow while it claims savings?

Belongs here: absolute footprint per team and month beside the claims, and the flag. Does not belong here: why it grew,
what follows from a flag. A claim stays what it is; a reader sees both numbers.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import Floats, to_arrow
from sust_dagster.agents.verifier.causal.inputs import (
    CheckInputError,
    Ints,
    Keys,
    distinct,
    instants,
    keys,
    numbers,
    require,
)
from sust_dagster.world.schemas import BOOL, FLOAT, STRING, TIMESTAMP

#: Growth of the absolute footprint over the month before that is flagged where savings are claimed.
GROWTH_LIMIT = 0.20

#: One row per team and month with a footprint or a claim. ``growth`` is of the absolute footprint over the calendar
#: month before; ``growth_per_day`` the same of the daily mean, as months differ in length (for reading, not flagged).
REBOUND = pa.schema(
    [
        ("team_id", STRING),
        ("month", TIMESTAMP),
        ("footprint_kg", FLOAT),
        ("previous_footprint_kg", FLOAT),
        ("claimed_savings_kg", FLOAT),
        ("growth", FLOAT),
        ("growth_per_day", FLOAT),
        ("flagged", BOOL),
        ("reason", STRING),
    ]
)


def rebound(footprints: pa.Table, claims: pa.Table, *, growth_limit: float = GROWTH_LIMIT) -> pa.Table:
    """Footprint beside claims by team and month: schema :data:`REBOUND`, ordered by team and month.

    ``footprints``: team_id, ts (UTC, any instant of the month), kg (absolute, kgCO2e; rows of a month are added up).
    ``claims``: team_id, ts, saved_kg (verified savings, before - after, signed; added up). Months are meant to be
    whole: a month still running has grown less than it will have.

    ``flagged`` is true where the claim is above 0 and the footprint grew by more than ``growth_limit`` (19 % is not,
    21 % is); null with a ``reason`` where it cannot be told: 'no_footprint', 'no_previous_month', 'previous_zero'.
    A month without a claim is never flagged. Raises :class:`CheckInputError` for missing columns, a null number.
    """
    of, claim_of = "footprints of rebound", "claims of rebound"
    require(footprints, ("team_id", "ts", "kg"), of)
    require(claims, ("team_id", "ts", "saved_kg"), claim_of)
    team = keys(
        pa.table(
            {
                "team_id": pa.chunked_array(
                    [*footprints["team_id"].cast(STRING).chunks, *claims["team_id"].cast(STRING).chunks], STRING
                )
            }
        ),
        "team_id",
        "footprints and claims of rebound",
    )
    month = np.append(_months(footprints, of), _months(claims, claim_of))
    kg, saved = _whole(footprints, "kg", of), _whole(claims, "saved_kg", claim_of)
    cells, at = distinct(team.codes, month)
    n = len(kg)
    known = np.bincount(at[:n], minlength=len(cells)) > 0
    total = np.where(known, np.bincount(at[:n], kg, minlength=len(cells)), np.nan)
    claimed = np.bincount(at[n:], saved, minlength=len(cells)).astype(np.float64)
    return _table(team, cells, total, claimed, growth_limit)


def _table(team: Keys, cells: Ints, total: Floats, claimed: Floats, growth_limit: float) -> pa.Table:
    # Rows are sorted by team and month: the month before, where there is one, is the row before.
    follows = np.zeros(len(cells), bool)
    follows[1:] = (cells[1:, 0] == cells[:-1, 0]) & (cells[1:, 1] == cells[:-1, 1] + 1)
    previous = np.where(follows, np.append(np.nan, total[:-1]) if len(total) else total, np.nan)
    reason = np.select(
        [np.isnan(total), np.isnan(previous), previous <= 0.0],
        ["no_footprint", "no_previous_month", "previous_zero"],
        "",
    )
    good = reason == ""
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(good, total / previous - 1.0, np.nan)
        days = _days(cells[:, 1])
        per_day = np.where(good, (total / days) / (previous / _days(cells[:, 1] - 1)) - 1.0, np.nan)
    # Compared as products: 1.2 times a number is not above it by rounding.
    grew = total > previous * (1.0 + growth_limit) * (1.0 + 1e-12)
    flagged = good & grew & (claimed > 0.0)
    # Without a claim there is nothing to flag, whatever is unknown.
    untold = ~good & (claimed > 0.0)
    return pa.table(
        {
            "team_id": pa.array([team.values[i] for i in cells[:, 0]], STRING),
            "month": pa.array(cells[:, 1].astype("datetime64[M]").astype("datetime64[us]"), pa.timestamp("us")).cast(
                TIMESTAMP
            ),
            "footprint_kg": to_arrow(total),
            "previous_footprint_kg": to_arrow(previous),
            "claimed_savings_kg": claimed,
            "growth": to_arrow(growth),
            "growth_per_day": to_arrow(per_day),
            "flagged": pa.array(flagged, BOOL, mask=untold),
            "reason": pa.array(reason.astype(str), STRING, mask=good),
        },
        schema=REBOUND,
    )


def _months(table: pa.Table, what: str) -> Ints:
    """Months since 1970, UTC."""
    us, known = instants(table, "ts", what)
    if not known.all():
        raise CheckInputError(f"{what}: column ts, row {int((~known).argmax())} is null; every row has a month")
    return us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


def _days(months: Ints) -> Floats:
    starts = months.astype("datetime64[M]")
    return ((starts + 1).astype("datetime64[D]") - starts.astype("datetime64[D]")).astype(np.float64)


def _whole(table: pa.Table, name: str, what: str) -> Floats:
    values = numbers(table, name, what)
    if np.isnan(values).any():
        raise CheckInputError(f"{what}: column {name}, row {int(np.isnan(values).argmax())} is null; a sum needs all")
    return values
