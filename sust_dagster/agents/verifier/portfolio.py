"""The total of any choice of stored outcomes, with its interval: from the rows alone.

Belongs here: reading the vectors that OUTCOMES rows carry and adding them up, signed, before anything is squared. Does
not belong here: how a row got its vector (``sensitivity``), credit (``credit``).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.uncertainty import Z90


@dataclass(frozen=True)
class Portfolio:
    """Savings (before - after) of some outcomes, kg, with their 90 % accounting interval."""

    savings_kg: float
    sd_kg: float

    @property
    def lower_kg(self) -> float:
        return self.savings_kg - Z90 * self.sd_kg

    @property
    def upper_kg(self) -> float:
        return self.savings_kg + Z90 * self.sd_kg


def portfolio_of(outcomes: pa.Table) -> Portfolio | None:
    """Total of rows of OUTCOMES; disqualified ones take no part. None where no outcome has a number.

    ``sd^2 = sum_k (sum_j s_jk sigma_k)^2`` over ``scaled_sensitivities``: an error that outcomes share does not shrink
    with their number (docs/methodology.md, section 6).
    """
    known = outcomes.filter(pc.is_valid(outcomes.column("measured_carbon_delta_kg")))
    if not known.num_rows:
        return None
    total: defaultdict[str, float] = defaultdict(float)
    for vector in known.column("scaled_sensitivities").to_pylist():
        for key, value in json.loads(vector or "{}").items():
            total[key] += value
    savings = -math.fsum(known.column("measured_carbon_delta_kg").to_pylist())
    return Portfolio(savings, math.sqrt(math.fsum(v * v for v in total.values())))
