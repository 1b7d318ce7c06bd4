"""Credit: what each outcome adds to the lower bound of its portfolio.

Belongs here: the Euler split of a portfolio's one-sided 5 % bound. Does not belong here: points, or who gets them.

``credit_j = S_j - z (G_j . G_tot) / |G_tot|``: signed, and the sum over the portfolio is exactly its lower bound
(Euler's theorem: |G| is homogeneous of degree one; Tasche, "Capital allocation to business units", 2008). An outcome
that offsets the others' shared error is credited more than it saved; one that adds to it less. Where ``|G_tot|`` is 0
nothing in the total is uncertain, and the credit is the saving itself.
"""

from __future__ import annotations

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.arrays import Ints, sum_by
from sust_dagster.agents.verifier.uncertainty import Z90, Portfolios


def euler_credits(savings: Floats, group: Ints, outcome: Ints, scaled_kg: Floats, total: Portfolios) -> Floats:
    """Credit of each outcome in kg, signed; by group they sum to ``total.lower``.

    ``savings``, ``group``: per outcome; ``outcome``, ``scaled_kg``: the sparse sensitivities ``total`` was made from.
    """
    dot = sum_by(outcome, scaled_kg * total.scaled_kg[total.cell], len(savings))
    norm = total.sd[group]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(norm > 0, dot / norm, 0.0)
    return savings - Z90 * share
