"""The total of any choice of stored outcomes, with its interval: from the rows alone.

Belongs here: reading the vectors that OUTCOMES rows carry. Does not belong here: adding them up (``outcome``), how a
row got its vector (``sensitivity``), credit (``credit``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.outcome import aggregate


@dataclass(frozen=True)
class Portfolio:
    """Savings (before - after) of some outcomes, kg, with their 90 % accounting interval."""

    savings_kg: float
    sd_kg: float
    lower_kg: float
    upper_kg: float


def portfolio_of(outcomes: pa.Table) -> Portfolio | None:
    """Total of rows of OUTCOMES; disqualified ones take no part. None where no outcome has a number.

    ``sd^2 = sum_k (sum_j s_jk sigma_k)^2`` over ``scaled_sensitivities``: an error that outcomes share does not shrink
    with their number (docs/methodology.md, section 6).
    """
    known = outcomes.filter(pc.is_valid(outcomes.column("measured_carbon_delta_kg")))
    if not known.num_rows:
        return None
    ids = known.column("outcome_id").to_pylist()
    vectors = [json.loads(vector or "{}") for vector in known.column("scaled_sensitivities").to_pylist()]
    rows = pa.table(
        {
            "outcome_id": pa.array([i for i, vector in zip(ids, vectors, strict=True) for _ in vector], pa.string()),
            "factor_key": pa.array([key for vector in vectors for key in vector], pa.string()),
            "scaled_kg": pa.array([kg for vector in vectors for kg in vector.values()], pa.float64()),
        }
    )
    savings = pc.negate(known.column("measured_carbon_delta_kg")).to_pylist()
    total = aggregate(rows, dict(zip(ids, savings, strict=True)), ids)
    return Portfolio(*(float(part[0]) for part in (total.savings, total.sd, total.lower, total.upper)))
