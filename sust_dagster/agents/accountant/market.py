"""Market-based emissions: contractual instruments supplied by the user, by provider, region and year.

Belongs here: the instrument table's contract and lookup. Does not belong here: figures (none is shipped:
residual mixes and certificates are not ours to redistribute) or the location-based calculation.

GHG Protocol Scope 2 Guidance (2015): where no instrument covers a row, the location-based figure stands in
and the row says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.accountant.lookups import LedgerError

NO_INSTRUMENT = "location (no instrument)"

#: provider, region (null: every region of the provider), vintage (calendar year), factor, who says so.
INSTRUMENT_SCHEMA = pa.schema(
    [
        pa.field("provider", pa.string(), nullable=False),
        pa.field("region", pa.string()),
        pa.field("vintage", pa.int64(), nullable=False),
        pa.field("factor_kg_per_kwh", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("factor_lower", pa.float64()),
        pa.field("factor_upper", pa.float64()),
    ]
)


@dataclass(frozen=True)
class MarketLookup:
    """Instruments by (provider, region, year); entry 0 stands for "no instrument"."""

    position: dict[tuple[str, str, int], int]
    factor: Floats
    lower: Floats
    upper: Floats
    basis: tuple[str, ...]
    digest: str

    def of(self, places: Sequence[tuple[str, str]], years: Sequence[int]) -> NDArray[np.int64]:
        """Instrument of each (place, year): the region's own, else the provider's, else 0. Shape (places, years)."""
        return np.array(
            [[self.position.get((p, r, y)) or self.position.get((p, "", y)) or 0 for y in years] for p, r in places],
            dtype=np.int64,
        ).reshape(len(places), len(years))


def market_lookup(instruments: pa.Table | None) -> MarketLookup | None:
    """Index an instrument table (:data:`INSTRUMENT_SCHEMA`; bounds may be absent: a contract states one figure).

    Raises :class:`LedgerError` for a missing column, a negative or missing factor, bounds that do not hold
    the factor, or two instruments for one (provider, region, vintage).
    """
    if instruments is None or instruments.num_rows == 0:
        return None
    rows = _conform(instruments).to_pylist()
    position: dict[tuple[str, str, int], int] = {}
    factor, lower, upper, basis = [np.nan], [np.nan], [np.nan], [NO_INSTRUMENT]
    digest = hashlib.sha256()
    for i, r in enumerate(rows):
        key = (r["provider"], r["region"] or "", r["vintage"])
        value = r["factor_kg_per_kwh"]
        low = value if r["factor_lower"] is None else r["factor_lower"]
        high = value if r["factor_upper"] is None else r["factor_upper"]
        if not (np.isfinite(value) and 0 <= low <= value <= high):
            raise LedgerError(f"instrument {i} {key}: factor {value} with bounds [{low}, {high}] kg/kWh is not usable")
        if key in position:
            raise LedgerError(f"instrument {i}: two instruments for {key}; combine them into one factor")
        position[key] = len(factor)
        factor.append(value)
        lower.append(low)
        upper.append(high)
        basis.append(f"{r['source']} ({r['vintage']})")
        digest.update(repr((key, value, low, high, r["source"])).encode())
    return MarketLookup(position, np.array(factor), np.array(lower), np.array(upper), tuple(basis), digest.hexdigest())


def _conform(table: pa.Table) -> pa.Table:
    columns = []
    for field in INSTRUMENT_SCHEMA:
        if field.name in table.column_names:
            try:
                values = pc.cast(table[field.name], field.type)
            except pa.ArrowInvalid as error:
                raise LedgerError(f"instrument column {field.name}: {error}") from error
            if not field.nullable and values.null_count:
                raise LedgerError(f"instrument column {field.name} has {values.null_count} empty cells")
            columns.append(values)
        elif field.nullable:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            raise LedgerError(f"the instrument table has no column {field.name}; it needs {INSTRUMENT_SCHEMA.names}")
    return pa.table(columns, schema=INSTRUMENT_SCHEMA)
