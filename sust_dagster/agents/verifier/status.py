"""The verdict on one outcome from its saving, its interval and what was claimed.

Belongs here: the five statuses and the order in which they are tried. Does not belong here: gates (they decide
before any number exists), intervals or points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.arrays import Bools

#: In the order they are tried; the first that holds is the status.
STATUSES: tuple[str, ...] = ("disqualified", "refuted", "inconclusive", "partial", "confirmed")


def statuses(
    savings_kg: Floats, lower_kg: Floats, upper_kg: Floats, claimed_kg: Floats, disqualified: Bools
) -> NDArray[np.str_]:
    """One status per outcome, whatever the figures; arrays of one shape, savings (before - after) in kg.

    1. ``disqualified``: a gate failed, or a figure is not a number;
    2. ``refuted``: the upper bound is below 0;
    3. ``inconclusive``: the interval contains 0 (or the point is not above 0);
    4. ``partial``: saved, but the point is below the claim (or the half-width above 100 % of the point);
    5. ``confirmed``: the one-sided 5 % lower bound is above 0, the half-width at most 100 % of the point, and the
       point is not below the claim.

    ``claimed_kg`` NaN means that nothing was claimed: no point is below it.
    """
    missing = disqualified | ~(np.isfinite(savings_kg) & np.isfinite(lower_kg) & np.isfinite(upper_kg))
    lower, upper = (np.where(missing, 0.0, bound) for bound in (lower_kg, upper_kg))
    half = upper / 2 - lower / 2  # the difference itself may be larger than any number
    return np.select(
        [
            missing,
            upper_kg < 0,
            ~(lower_kg > 0) | ~(savings_kg > 0),
            (savings_kg < claimed_kg) | ~(half <= savings_kg),
        ],
        STATUSES[:4],
        default=STATUSES[4],
    )
