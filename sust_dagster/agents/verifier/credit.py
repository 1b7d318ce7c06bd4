"""Credit: what each outcome adds to the lower bound of its portfolio.

Belongs here: the one-sided 5 % bound of a portfolio and its Euler split. Does not belong here: points, or who gets
them.

The split is Euler's (Tasche, "Capital allocation to business units", 2008): for a bound ``f(S, sd)`` homogeneous of
degree one, ``credit_j = f_S S_j + f_sd (G_j . G_tot) / |G_tot|`` is signed and adds up to ``f`` exactly. An outcome
that offsets the others' shared error is credited more than one that adds to it. Where ``|G_tot|`` is 0 nothing in the
total is uncertain, and the credit is the saving itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.arrays import Ints, sum_by
from sust_dagster.agents.verifier.uncertainty import Z90, Portfolios


@dataclass(frozen=True)
class Bound:
    """One-sided 5 % lower bounds of savings, kg, and their derivatives by the saving and by its standard deviation."""

    kg: Floats
    by_saving: Floats
    by_sd: Floats


def lower_bound(savings: Floats, sd: Floats) -> Bound:
    """What savings are at least, in 95 of 100 worlds.

    ``S - z sd``; for a loss (S < 0) the lower of that and ``S exp(z t)`` with ``t^2 = ln(1 + (sd / S)^2)``: factor
    errors multiply, so a loss has its long tail towards a larger loss, as a log-normal figure has. A gain has it
    towards a larger gain; there the straight line is on the safe side.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = sd / -savings
    # Beyond these the straight line is lower, or the two are the same to the last digit.
    loss = (savings < 0) & (ratio > 1e-12) & (ratio < 1e12)
    ratio = np.where(loss, ratio, 1.0)
    spread = np.sqrt(np.log1p(ratio**2))
    growth = np.exp(Z90 * spread)
    skewed = loss & (savings * growth < savings - Z90 * sd)
    slope = growth * Z90 * ratio / ((1.0 + ratio**2) * spread)
    by_saving = np.where(skewed, growth - ratio * slope, 1.0)
    by_sd = np.where(skewed, -slope, -Z90)
    return Bound(np.where(skewed, savings * growth, savings - Z90 * sd), by_saving, by_sd)


def euler_credits(savings: Floats, group: Ints, outcome: Ints, scaled_kg: Floats, total: Portfolios) -> Floats:
    """Credit of each outcome in kg, signed; by group they sum to :func:`lower_bound` of the total.

    ``savings``, ``group``: per outcome; ``outcome``, ``scaled_kg``: the sparse sensitivities ``total`` was made from.
    """
    bound = lower_bound(total.savings, total.sd)
    dot = sum_by(outcome, scaled_kg * total.scaled_kg[total.cell], len(savings))
    norm = total.sd[group]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(norm > 0, dot / norm, 0.0)
    return bound.by_saving[group] * savings + bound.by_sd[group] * share
