"""Least squares over the simplex, exactly: the mix of columns that comes nearest to a target.

Belongs here: the quadratic program behind synthetic control's weights. Does not belong here: panels or effects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from sust_dagster.agents.accountant.columns import Floats

#: Largest duality gap accepted, relative to the squared size of the problem.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Mix:
    """Weights ``(n,)``, not negative and summing to 1; the objective there; how far it can be from the least."""

    weights: Floats
    objective: float
    gap: float


def nearest_mix(columns: Floats, target: Floats, ridge: float = 0.0) -> Mix:
    """The w >= 0 with sum 1 that minimises ``|columns @ w - target|² + ridge² |w|²``.

    ``columns`` is ``(m, n)``, ``target`` ``(m,)``. As w sums to 1 this is the point of least norm in the hull of the
    vectors (column - target, ridge e_i), and that point is the direction of the non-negative least squares solution of
    [vectors; c 1'] u = [0; c] for any c > 0 (the least-distance reduction of Lawson and Hanson 1974, ch. 23). The
    active set it ends with is solved once more as an equality problem. Deterministic; the optimum is unique with
    ridge > 0. Raises ``ArithmeticError`` where the gap of the result exceeds :data:`TOLERANCE`.
    """
    vectors = columns - target[:, None]
    if ridge > 0.0:
        vectors = np.vstack([vectors, ridge * np.eye(vectors.shape[1])])
    size = float(np.sqrt((vectors**2).sum(axis=0).max()))
    if size == 0.0:
        # Every column is the target: any mix is exact.
        n = vectors.shape[1]
        return Mix(np.full(n, 1.0 / n), 0.0, 0.0)
    vectors = vectors / size
    n = vectors.shape[1]
    system = np.vstack([vectors, np.ones(n)])
    u = nnls(system, np.append(np.zeros(len(vectors)), 1.0), maxiter=100 * n)[0]
    best = _rated(vectors, u / u.sum())
    polished = _on_support(vectors, best.weights > 0.0)
    if polished is not None:
        again = _rated(vectors, polished)
        best = again if again.gap < best.gap else best
    if best.gap > TOLERANCE:
        raise ArithmeticError(f"simplex least squares: gap {best.gap:.3g} of {n} columns exceeds {TOLERANCE:g}")
    return Mix(best.weights, best.objective * size**2, best.gap * size**2)


def _rated(vectors: Floats, weights: Floats) -> Mix:
    at = vectors @ weights
    gradient = vectors.T @ at
    # Convexity: the least objective is at least the objective less twice this.
    return Mix(weights, float(at @ at), max(0.0, 2.0 * float(weights @ gradient - gradient.min())))


def _on_support(vectors: Floats, support: np.ndarray) -> Floats | None:
    """The mix of the columns in ``support`` with the inequality left out; None where it has a negative weight."""
    at = np.flatnonzero(support)
    # One weight follows from the sum, so that the problem is plain least squares and keeps its conditioning.
    last = vectors[:, at[-1]]
    free = np.linalg.lstsq(vectors[:, at[:-1]] - last[:, None], -last, rcond=None)[0]
    solved = np.append(free, 1.0 - free.sum())
    if (solved < 0.0).any():
        return None
    weights = np.zeros(vectors.shape[1])
    weights[at] = solved / solved.sum()
    return weights
