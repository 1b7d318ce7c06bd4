"""Where a saving comes from: exact splits that do not depend on an order.

Belongs here: Shapley over energy, region and time; Shapley and LMDI-I over a product of factors. Does not belong
here: what the factors are, or sums over runs.

Sources: Shapley, "A value for n-person games" (1953); Ang, "LMDI decomposition approach: a guide for
implementation", Energy Policy 86 (2015), additive LMDI-I.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.arrays import Bools


@dataclass(frozen=True)
class Parts:
    """Savings by cause (before - after), element by element; the three add up to the whole."""

    spatial: Floats
    temporal: Floats
    energy: Floats


def shapley(e_cf: Floats, e_act: Floats, ga0: Floats, ga1: Floats, gb0: Floats, gb1: Floats) -> Parts:
    """Shapley split of ``e_cf gA(t0) - e_act gB(t1)`` among region (A to B), time (t0 to t1) and energy.

    ``e_*``: energy at the meter, so a PUE that differs counts as energy. ``gaX``: intensity of the origin at
    tX; ``gbX``: of the destination. Arrays of one shape, any energy and intensity unit; parts in their product.
    The mean over the six orders in which the three can be changed one after the other.
    """
    early, late = e_cf / 3 + e_act / 6, e_cf / 6 + e_act / 3
    return Parts(
        spatial=early * (ga0 - gb0) + late * (ga1 - gb1),
        temporal=early * (ga0 - ga1) + late * (gb0 - gb1),
        energy=(e_cf - e_act) * ((ga0 + gb1) / 3 + (ga1 + gb0) / 6),
    )


def shapley_product(before: Floats, after: Floats) -> Floats:
    """Shapley split of ``prod(before) - prod(after)`` among k factors: shape (n, k) in, (n, k) out.

    Exact for zeros and signs of any kind. Work grows as ``k 2^k``: meant for k up to about 8.
    """
    n, k = before.shape
    parts = np.zeros((n, k))
    for i in range(k):
        others = [j for j in range(k) if j != i]
        for size in range(k):
            weight = factorial(size) * factorial(k - size - 1) / factorial(k)
            for changed in combinations(others, size):
                rest = np.ones(n)
                for j in others:
                    rest = rest * (after[:, j] if j in changed else before[:, j])
                parts[:, i] += weight * rest * (before[:, i] - after[:, i])
    return parts


def lmdi(before: Floats, after: Floats) -> tuple[Floats, Bools]:
    """Additive LMDI-I split of ``prod(before) - prod(after)`` among k factors, without a residual.

    ``part_x = L ln(x0 / x1)`` with ``L = (E0 - E1) / ln(E0 / E1)`` and ``L = E0`` where both are equal. Shape (n, k)
    in; returns the parts (n, k) and where the guard took :func:`shapley_product` instead (n): rows with a factor that
    is not above zero have no logarithm.
    """
    guarded = ((before <= 0) | (after <= 0)).sum(axis=1) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(before / after)
        total = logs.sum(axis=1)
        e0, e1 = before.prod(axis=1), after.prod(axis=1)
        # Below 1e-6 the quotient is rounding noise; the mean differs from it by less than 1e-12 of its size.
        mean = np.where(np.abs(total) < 1e-6, (e0 + e1) / 2, (e0 - e1) / np.where(total == 0, 1.0, total))
        parts = mean[:, None] * logs
    if guarded.any():
        parts[guarded] = shapley_product(before[guarded], after[guarded])
    return parts, guarded
