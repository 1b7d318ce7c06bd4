"""How a saving answers to each named factor: ``s_k = dS / d ln f_k``, sparse, per outcome.

Belongs here: the terms of a saving with the factors that multiply each, their boxes and spreads, and sums by
(outcome, factor). Does not belong here: intervals, credits, or where the energies come from.

A saving is a signed sum of products, and a factor multiplies whole terms, so ``s_k`` is the signed sum of the terms
that carry factor k. A key on both sides nets: what both sides share in full does not blur the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import Floats, dictionary
from sust_dagster.agents.accountant.factors import Z95, FactorError, FactorSet, NamedFactor, log_sd
from sust_dagster.agents.accountant.methods import named_factor
from sust_dagster.agents.verifier.arrays import Bools, Ints, sum_by
from sust_dagster.agents.verifier.counterfactual import Pieces, Slices
from sust_dagster.agents.verifier.signal import GRID_READING, HourlySignal

#: Columns of a term's factors: four named ones, then the region's shared grid error and the hour's own.
TERM_SLOTS = 6
_SYSTEM, _HOUR = 4, 5


def lognormal_factor(key: str, sd: float) -> NamedFactor:
    """A named factor from the standard deviation of its logarithm, such as an estimated usage ratio."""
    bound = math.exp(Z95 * sd)
    return NamedFactor(key, 1 / bound, bound, "95% lognormal")


def named_factors(factors: FactorSet, keys: Iterable[str]) -> dict[str, NamedFactor]:
    """The power and PUE factors of these keys; a key the set does not hold is left out, for a gate to name."""
    found: dict[str, NamedFactor] = {}
    for key in sorted(set(keys)):
        try:
            found[key] = named_factor(factors, key)
        except FactorError:
            continue
    return found


@dataclass(frozen=True)
class Terms:
    """Signed terms of savings: ``kg`` above zero for the counterfactual, below for actual and leakage (n).

    ``keys``: shape (n, 6), factor codes, -1 none. ``lower``, ``upper``, ``log_sd``: the same shape, relative box and
    spread of each factor, 1, 1 and 0 where there is none. The first ``pairs`` terms are counterfactual pieces, the next
    ``pairs`` the actual sides of the same pieces, then leakage. Codes: named factors, then regions, then cells.
    """

    outcome: Ints
    kg: Floats
    keys: Ints
    lower: Floats
    upper: Floats
    log_sd: Floats
    pairs: int
    names: tuple[str, ...]
    signal: HourlySignal

    @property
    def minus(self) -> Bools:
        """Terms of the actual side and leakage."""
        return np.arange(len(self.kg)) >= self.pairs

    def key_names(self, codes: Ints) -> list[str]:
        """Names of factor codes."""
        named, regions = len(self.names), len(self.signal.regions)
        out = np.empty(len(codes), dtype=object)
        plain, system = codes < named, (codes >= named) & (codes < named + regions)
        out[plain] = np.array([*self.names, ""], dtype=object)[codes[plain]]
        out[system] = np.array([f"grid/{r}" for r in self.signal.regions] + [""], dtype=object)[codes[system] - named]
        hourly = ~plain & ~system
        if hourly.any():
            out[hourly] = self.signal.hour_keys(codes[hourly] - named - regions)
        return out.tolist()


@dataclass(frozen=True)
class LeakageTerms:
    """Leakage as terms: ``outcome``, ``kg`` above zero, code of the ``key`` (-1 none), and ``cell`` (-1 none)."""

    outcome: Ints
    kg: Floats
    key: Ints
    cell: Ints


def terms(
    pieces: Pieces,
    slices: Slices,
    leakage: LeakageTerms,
    signal: HourlySignal,
    factors: Mapping[str, NamedFactor],
) -> Terms:
    """The terms of all outcomes with their factors.

    ``factors`` must hold every key of ``slices.key_names`` that occurs; ``KeyError`` names one that is missing. A
    region whose hours state several boxes has one factor per outcome: the hull of the boxes of the hours it uses.
    """
    named, regions = len(slices.key_names), len(signal.regions)

    def side(keys: Ints, cells: Ints) -> Ints:
        return np.concatenate([keys[pieces.row], _grid_codes(cells, named, regions, signal.hours)], axis=1)

    leak_keys = np.full((len(leakage.kg), TERM_SLOTS), -1, dtype=np.int64)
    leak_keys[:, 0] = leakage.key
    leak_keys[:, _SYSTEM:] = _grid_codes(leakage.cell, named, regions, signal.hours)
    outcome = np.concatenate([pieces.outcome, pieces.outcome, leakage.outcome])
    keys = np.concatenate(
        [side(slices.keys_before, pieces.cell_a0), side(slices.keys_after, pieces.cell_b1), leak_keys]
    )
    kg = np.concatenate([pieces.counterfactual_kg, -pieces.actual_kg, -leakage.kg])
    lower, upper, spread = _boxes(outcome, keys, slices.key_names, signal, factors)
    return Terms(outcome, kg, keys, lower, upper, spread, len(pieces.outcome), slices.key_names, signal)


def _grid_codes(cells: Ints, named: int, regions: int, hours: int) -> Ints:
    """Codes of the region's and of the hour's factor: shape (n, 2)."""
    system = np.where(cells >= 0, named + cells // max(hours, 1), -1)
    return np.stack([system, np.where(cells >= 0, named + regions + cells, -1)], axis=1)


def _boxes(
    outcome: Ints, keys: Ints, names: Sequence[str], signal: HourlySignal, factors: Mapping[str, NamedFactor]
) -> tuple[Floats, Floats, Floats]:
    named, regions = len(names), len(signal.regions)
    used = set(np.unique(keys[:, :_SYSTEM]).tolist()) - {-1}
    lower, upper, spread = np.ones(named + 1), np.ones(named + 1), np.zeros(named + 1)
    for code in used:
        factor = factors[names[code]]
        lower[code], upper[code], spread[code] = factor.rel_lower, factor.rel_upper, factor.log_sd
    # Code -1 reads the last entry: no factor.
    out = [np.ones(keys.shape), np.ones(keys.shape), np.zeros(keys.shape)]
    for values, target in zip((lower, upper, spread), out, strict=True):
        target[:, :_SYSTEM] = values[keys[:, :_SYSTEM]]
    rows = np.flatnonzero(keys[:, _HOUR] >= 0)
    cell = keys[rows, _HOUR] - named - regions
    out[0][rows, _HOUR], out[1][rows, _HOUR] = signal.hour_lower.reshape(-1)[cell], signal.hour_upper.reshape(-1)[cell]
    group = outcome[rows] * max(regions, 1) + keys[rows, _SYSTEM] - named
    present, inverse = np.unique(group, return_inverse=True)
    low, high = np.ones(len(present)), np.ones(len(present))
    np.minimum.at(low, inverse, signal.system_lower.reshape(-1)[cell])
    np.maximum.at(high, inverse, signal.system_upper.reshape(-1)[cell])
    out[0][rows, _SYSTEM], out[1][rows, _SYSTEM] = low[inverse], high[inverse]
    for slot in (_SYSTEM, _HOUR):
        out[2][rows, slot] = grid_log_sd(out[0][rows, slot], out[1][rows, slot])
    return out[0], out[1], out[2]


def grid_log_sd(lower: Floats, upper: Floats) -> Floats:
    """Spread of grid factors from their relative boxes, under the reading of grid boxes (see ``signal``)."""
    return np.log(upper / lower) * log_sd(1.0, math.e, GRID_READING)


@dataclass(frozen=True)
class Sensitivities:
    """Sparse sensitivities, one element per (outcome, factor) in order of both codes, n in all.

    ``kg``: ``dS / d ln f``; ``plus_kg`` and ``minus_kg``: kg of the counterfactual and of actual run with leakage
    that the factor multiplies (``kg = plus_kg - minus_kg``). ``log_sd``: spread of ln f. ``key`` codes into ``keys``.
    """

    outcome: Ints
    key: Ints
    kg: Floats
    plus_kg: Floats
    minus_kg: Floats
    log_sd: Floats
    keys: tuple[str, ...]

    @property
    def scaled_kg(self) -> Floats:
        """``kg x log_sd``: sums over outcomes within a key, squares add up over keys."""
        return self.kg * self.log_sd

    def table(self, outcome_ids: Sequence[str]) -> pa.Table:
        """``outcome_id, factor_key, kg, log_sd, scaled_kg``; factors that cancel exactly (kg = 0) are left out."""
        kept = np.flatnonzero(self.kg != 0)
        return pa.table(
            {
                "outcome_id": pa.array(outcome_ids, pa.string()).take(pa.array(self.outcome[kept])),
                "factor_key": dictionary(self.key[kept].astype(np.int32), self.keys).cast(pa.string()),
                "kg": self.kg[kept],
                "log_sd": self.log_sd[kept],
                "scaled_kg": self.scaled_kg[kept],
            },
            schema=SENSITIVITY_SCHEMA,
        )


#: One row per outcome and named factor. ``SUM(scaled_kg) GROUP BY factor_key`` over any outcomes, squared and summed,
#: is the variance of their total.
SENSITIVITY_SCHEMA = pa.schema(
    [
        pa.field("outcome_id", pa.string(), nullable=False),
        pa.field("factor_key", pa.string(), nullable=False),
        pa.field("kg", pa.float64(), nullable=False),
        pa.field("log_sd", pa.float64(), nullable=False),
        pa.field("scaled_kg", pa.float64(), nullable=False),
    ]
)


def sensitivities(t: Terms) -> Sensitivities:
    """``s_k = dS / d ln f_k`` of every (outcome, factor). Equal sides cancel: both are summed in one order."""
    carried = t.keys >= 0
    row, slot = np.nonzero(carried)
    codes = t.keys[row, slot]
    span = int(codes.max()) + 1 if len(codes) else 1
    groups, first, inverse = np.unique(t.outcome[row] * span + codes, return_index=True, return_inverse=True)
    minus = t.minus[row]
    size = len(groups)
    plus_kg = sum_by(inverse[~minus], t.kg[row[~minus]], size)
    minus_kg = sum_by(inverse[minus], -t.kg[row[minus]], size)
    present, key = np.unique(groups % span, return_inverse=True)
    return Sensitivities(
        outcome=groups // span,
        key=key,
        kg=plus_kg - minus_kg,
        plus_kg=plus_kg,
        minus_kg=minus_kg,
        log_sd=t.log_sd[row[first], slot[first]],
        keys=tuple(t.key_names(present)),
    )
