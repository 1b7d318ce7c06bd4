"""Market instruments: contracts and certificates a company holds, for market-based accounting.

Belongs here: reading the user's CSV, whose columns the accountant declares. None is shipped: residual mixes and
certificates are the user's own facts.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv

from sust_dagster.agents.accountant.market import INSTRUMENT_SCHEMA

#: Above any grid's intensity; a factor beyond it is in grams.
_LARGEST_KG_PER_KWH = 3.0


class InstrumentError(ValueError):
    """The instrument file cannot be used; the message names the row, the column and the fix."""


def read_instruments(path: str | Path) -> pa.Table:
    """Read instruments (``INSTRUMENT_SCHEMA``; an empty region means every region of the provider) from CSV.

    Raises :class:`InstrumentError` when the file or a column is missing or a factor is no kgCO2e/kWh figure.
    """
    types = {f.name: f.type for f in INSTRUMENT_SCHEMA}
    try:
        options = pcsv.ConvertOptions(column_types=types, strings_can_be_null=True)
        table = pcsv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowInvalid) as error:
        raise InstrumentError(f"{path}: {error}") from error
    columns = []
    for field in INSTRUMENT_SCHEMA:
        if field.name not in table.column_names:
            if not field.nullable:
                raise InstrumentError(f"{path}: column {field.name} is missing; the columns are {', '.join(types)}")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            row = column.is_null().to_pylist().index(True) + 1
            raise InstrumentError(f"{path}, row {row}: {field.name} is empty; every instrument states it")
        columns.append(column)
    instruments = pa.table(columns, schema=INSTRUMENT_SCHEMA)
    factors = instruments.column("factor_kg_per_kwh").to_numpy()
    bad = ~((factors >= 0) & (factors <= _LARGEST_KG_PER_KWH))
    if bad.any():
        row = int(bad.argmax()) + 1
        raise InstrumentError(
            f"{path}, row {row}: factor_kg_per_kwh {factors[row - 1]} is not between 0 and "
            f"{_LARGEST_KG_PER_KWH:g} kgCO2e/kWh; is it in grams?"
        )
    return instruments
