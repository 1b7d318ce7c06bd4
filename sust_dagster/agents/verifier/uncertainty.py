"""Intervals of a saving: linear, Monte Carlo, and the guaranteed box; one outcome or any portfolio of them.

Belongs here: variance from sensitivities, the rule that chooses the method, replayable draws, interval arithmetic.
Does not belong here: what a sensitivity is made of, credits, or statuses. All figures are savings, in kg.

The accounting interval speaks of factor errors against the truth. It can not be calibrated from own history, and
it says nothing about the forecast the plan was made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtri

from sust_dagster.agents.accountant.columns import Floats, compact
from sust_dagster.agents.verifier.arrays import Bools, Ints, sum_by
from sust_dagster.agents.verifier.sensitivity import Sensitivities, Terms

#: 95 % quantile of the standard normal: half a two-sided 90 % interval, and a one-sided 5 % bound.
Z90 = 1.6448536269514722

#: Above this variance of a side's logarithm the linear interval gives way to draws.
LARGE_LOG_VARIANCE = 0.1

#: A saving within this many standard deviations of zero is near zero: its sign is decided by draws.
NEAR_ZERO_SD = 2.0

#: Draws of one Monte Carlo interval.
DRAWS = 4000

LINEAR, MONTE_CARLO = "linear", "monte_carlo"

#: Outcomes and terms drawn at once: bounds the memory of a block to some tens of MB.
_OUTCOMES_PER_BLOCK, _TERMS_PER_BLOCK = 128, 512

#: (group x factor) matrices up to this many cells are kept dense.
_DENSE_CELLS = 1 << 25


@dataclass(frozen=True)
class Intervals:
    """Interval of each outcome's saving, kg: linear ``sd``, 90 % ``lower`` and ``upper``, where draws were used."""

    sd: Floats
    lower: Floats
    upper: Floats
    monte_carlo: Bools


def linear_sd(s: Sensitivities, outcomes: int) -> Floats:
    """``sqrt(sum_k (s_k sigma_k)^2)`` of each outcome."""
    return np.sqrt(sum_by(s.outcome, s.scaled_kg**2, outcomes))


def side_log_variance(s: Sensitivities, plus_kg: Floats, minus_kg: Floats) -> Floats:
    """Variance of the logarithm of the counterfactual or of the actual side, whichever is larger, per outcome.

    ``plus_kg``: counterfactual, ``minus_kg``: actual and leakage, each per outcome. ``sum_k (share of the side that
    carries k)^2 sigma_k^2``; for a side of one term the plain sum of ``sigma_k^2``.
    """
    worst = np.zeros(len(plus_kg))
    for part, whole in ((s.plus_kg, plus_kg), (s.minus_kg, minus_kg)):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(whole[s.outcome] != 0, part / whole[s.outcome], 0.0)
        worst = np.maximum(worst, sum_by(s.outcome, (share * s.log_sd) ** 2, len(plus_kg)))
    return worst


def intervals(
    t: Terms, s: Sensitivities, plus_kg: Floats, minus_kg: Floats, *, seed: int, draws: int = DRAWS
) -> Intervals:
    """90 % accounting interval of each outcome's saving ``plus_kg - minus_kg``.

    Linear (saving -+ :data:`Z90` sd) unless a side's log variance is above :data:`LARGE_LOG_VARIANCE` or the saving
    lies within :data:`NEAR_ZERO_SD` standard deviations of zero; there the 5 % and 95 % quantiles of ``draws`` draws.
    """
    saving = plus_kg - minus_kg
    sd = linear_sd(s, len(saving))
    drawn = (sd > 0) & (
        (side_log_variance(s, plus_kg, minus_kg) > LARGE_LOG_VARIANCE) | (np.abs(saving) < NEAR_ZERO_SD * sd)
    )
    lower, upper = saving - Z90 * sd, saving + Z90 * sd
    chosen = np.flatnonzero(drawn)
    for at in range(0, len(chosen), _OUTCOMES_PER_BLOCK):
        block = chosen[at : at + _OUTCOMES_PER_BLOCK]
        low_high = np.quantile(monte_carlo(t, block, seed=seed, draws=draws), (0.05, 0.95), axis=1)
        lower[block], upper[block] = low_high
    return Intervals(sd, lower, upper, drawn)


def standard_normals(key: str, seed: int, draws: int) -> Floats:
    r"""The standard normals of one factor: the same for every outcome that carries the key, and for every auditor.

    Philox4x64-10 with the key (bytes 0-7, bytes 8-15, little endian) of SHA-256 of ``"<seed>\x1f<key>"``, counters
    1, 2, ... in the first word, four words each; ``z = Phi^-1(((word >> 11) + 0.5) / 2^53)``.
    """
    digest = hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()
    words = np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)).random_raw(draws)
    return ndtri(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def monte_carlo(t: Terms, outcomes: Ints, *, seed: int, draws: int = DRAWS) -> Floats:
    """Draws of the savings of these outcomes (ascending codes): shape (len(outcomes), draws), kg.

    Each draw multiplies every term by ``exp(sum_k sigma_k z_k)`` over its factors.
    """
    position = np.searchsorted(outcomes, t.outcome)
    mine = np.flatnonzero(np.append(outcomes, -1)[position] == t.outcome)
    # Terms with the same factors are drawn once: a fleet meets the same hours in the same regions again and again.
    spread = t.log_sd[mine] + 0.0
    same = np.concatenate([t.keys[mine].astype(np.int64), spread.view(np.int64)], axis=1)
    alike, inverse = np.unique(same, axis=0, return_inverse=True)
    weights = csr_array(
        (t.kg[mine], (position[mine], inverse.reshape(-1))), shape=(len(outcomes), len(alike)), dtype=np.float64
    )  # sums what stands in one place
    slots = t.keys.shape[1]
    keys, log_sd = alike[:, :slots], np.ascontiguousarray(alike[:, slots:]).view(np.float64)
    out = np.zeros((len(outcomes), draws))
    for at in range(0, len(alike), _TERMS_PER_BLOCK):
        rows = slice(at, at + _TERMS_PER_BLOCK)
        codes, place = np.unique(keys[rows], return_inverse=True)
        z = np.zeros((len(codes), draws))
        real = codes >= 0
        for i, name in zip(np.flatnonzero(real), t.key_names(codes[real]), strict=True):
            z[i] = standard_normals(name, seed, draws)
        exponent = np.zeros((len(keys[rows]), draws))
        for slot, code in enumerate(place.reshape(-1, slots).T):
            exponent += log_sd[rows, slot][:, None] * z[code]
        out += weights[:, rows] @ np.exp(exponent)
    return out


def box_bounds(t: Terms, outcomes: int) -> tuple[Floats, Floats]:
    """Guaranteed bounds of each saving over the factor boxes: (lower, upper), kg. Bounds, not an interval of 90 %.

    A factor that both sides of a piece share multiplies their difference, so pieces are grouped by (outcome, shared
    factors): ``[K] x ([rest] counterfactual - [rest] actual)``. Groups and leakage then add up as intervals.
    """
    m = t.pairs
    before, after = slice(0, m), slice(m, 2 * m)
    shared = (t.keys[before] == t.keys[after]) & (t.keys[before] >= 0)
    codes = np.where(shared, t.keys[before], -1)
    group = t.outcome[before].astype(np.int64)
    for slot in range(codes.shape[1]):
        # One column after the other, each made compact, so that the combined code never overflows.
        group = np.unique(group * (int(codes[:, slot].max(initial=0)) + 2) + codes[:, slot] + 1, return_inverse=True)[1]
    size = int(group.max(initial=-1)) + 1
    low, high = np.zeros(size), np.zeros(size)
    for side in (before, after):
        own_low = np.where(shared, 1.0, t.lower[side]).prod(axis=1)
        own_high = np.where(shared, 1.0, t.upper[side]).prod(axis=1)
        ends = np.sort(np.stack([t.kg[side] * own_low, t.kg[side] * own_high]), axis=0)
        low += sum_by(group, ends[0], size)
        high += sum_by(group, ends[1], size)
    common_low, common_high, owner = np.ones(size), np.ones(size), np.zeros(size, dtype=np.int64)
    common_low[group] = np.where(shared, t.lower[before], 1.0).prod(axis=1)
    common_high[group] = np.where(shared, t.upper[before], 1.0).prod(axis=1)
    owner[group] = t.outcome[before]
    ends = np.stack([low * common_low, low * common_high, high * common_low, high * common_high])
    leak = slice(2 * m, None)
    leak_ends = np.sort(t.kg[leak] * np.stack([t.lower[leak].prod(axis=1), t.upper[leak].prod(axis=1)]), axis=0)
    return (
        sum_by(owner, ends.min(axis=0), outcomes) + sum_by(t.outcome[leak], leak_ends[0], outcomes),
        sum_by(owner, ends.max(axis=0), outcomes) + sum_by(t.outcome[leak], leak_ends[1], outcomes),
    )


@dataclass(frozen=True)
class Portfolios:
    """Totals of groups of outcomes, kg: saving, standard deviation and 90 % interval, one element per group.

    ``cell`` gives each sensitivity's place in ``scaled_kg``, the signed sums ``G_k`` by (group, factor).
    """

    savings: Floats
    sd: Floats
    lower: Floats
    upper: Floats
    cell: Ints
    scaled_kg: Floats


def portfolios(
    savings: Floats, group: Ints, groups: int, outcome: Ints, key: Ints, scaled_kg: Floats, keys: int
) -> Portfolios:
    """Intervals of groups of outcomes: ``G_k = sum_j s_jk sigma_k`` signed, ``Var = sum_k G_k^2``.

    ``savings`` and ``group`` (codes 0.. ``groups`` - 1): per outcome. ``outcome``, ``key`` (codes), ``scaled_kg``:
    sparse sensitivities, one element each. A shared error does not average out, however many outcomes share it.
    """
    cell = group[outcome] * keys + key
    if groups * keys <= _DENSE_CELLS:
        sums = sum_by(cell, scaled_kg, groups * keys)
        variance = (sums.reshape(groups, keys) ** 2).sum(axis=1)
    else:
        present, cell = np.unique(cell, return_inverse=True)
        sums = sum_by(cell, scaled_kg, len(present))
        variance = sum_by(present // keys, sums**2, groups)
    total, sd = sum_by(group, savings, groups), np.sqrt(variance)
    return Portfolios(total, sd, total - Z90 * sd, total + Z90 * sd, cell, sums)


def group_codes(columns: Sequence[Ints]) -> tuple[Ints, Ints]:
    """One code per distinct combination of code columns, and the row that shows it first."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        wide = code * (int(column.max(initial=0)) + 1) + column
        code = compact(wide, int(wide.max(initial=0)) + 1)[1].astype(np.int64)
    _, first = np.unique(code, return_index=True)
    return code, first
