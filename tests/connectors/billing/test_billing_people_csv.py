"""Names are data: escaped only in CSV that people open."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sust_dagster.connectors.billing import escaped_for_people, escaped_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("＝1", "'＝1"),
        ("-3.5", "-3.5"),
        ("+4e-7", "+4e-7"),
        ("search=team", "search=team"),
        ("", ""),
        (None, None),
    ],
)
def test_formulas_become_text(text, shown):
    assert escaped_text(pa.array([text], pa.string())).to_pylist() == [shown]


def test_only_text_columns_change():
    table = pa.table({"name": pa.array(["=1", "b"]).dictionary_encode(), "kg": [-1.0, 2.0]})
    assert escaped_for_people(table).to_pydict() == {"name": ["'=1", "b"], "kg": [-1.0, 2.0]}
