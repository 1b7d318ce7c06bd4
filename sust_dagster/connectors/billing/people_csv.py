"""CSV for people: names from bills are data, and stay data in a spreadsheet.

Belongs here: escaping of cells that a spreadsheet would take for a formula. Inside the product names are kept as
they are; only what is written for people to open goes through here.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_FORMULA = r"^[=+\-@\t\r\n\x00＝＋－＠]"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def escaped_text(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts with an apostrophe before those that a spreadsheet would run; numbers stay numbers."""
    risky = pc.and_(pc.match_substring_regex(values, _FORMULA), pc.invert(pc.match_substring_regex(values, _NUMBER)))
    return pc.if_else(pc.fill_null(risky, False), pc.binary_join_element_wise("'", values, ""), values)


def escaped_for_people(table: pa.Table) -> pa.Table:
    """``table`` with all its text columns escaped (see :func:`escaped_text`), ready to be written as CSV."""
    for i, column in enumerate(table.schema):
        kind = column.type
        if pa.types.is_dictionary(kind):
            table = table.set_column(i, column.name, escaped_text(table.column(i).cast(pa.string())))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            table = table.set_column(i, column.name, escaped_text(table.column(i)))
    return table
