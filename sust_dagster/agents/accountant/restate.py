"""The difference between two calculations of the same activity: what a restatement changes.

Belongs here: the diff report. Does not belong here: why a restatement is made, or writing it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.lookups import LedgerError

KG_COLUMNS: tuple[str, ...] = ("kg_location", "kg_market", "kg_embodied")

REPORT_SCHEMA = pa.schema(
    [
        pa.field("scope", pa.string(), nullable=False),
        pa.field("item", pa.string()),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("rows_changed", pa.int64(), nullable=False),
        pa.field("rows_added", pa.int64(), nullable=False),
        pa.field("rows_removed", pa.int64(), nullable=False),
        pa.field("rows_without_kg_before", pa.int64(), nullable=False),
        pa.field("rows_without_kg_after", pa.int64(), nullable=False),
        *(
            pa.field(f"{kg}_{when}", pa.float64(), nullable=False)
            for kg in KG_COLUMNS
            for when in ("before", "after", "delta")
        ),
    ]
)


def diff_report(before: pa.Table, after: pa.Table, *, by: Sequence[str] = ("region", "team_id")) -> pa.Table:
    """Compare two ``EMISSIONS`` tables row by row (``activity_id``) and add up what changed.

    Returns :data:`REPORT_SCHEMA`: one ``total`` line, then one line per value of each column in ``by``, in
    order. A row counts as changed where one of its three kg figures, its method or its factor set differs,
    or a figure appears or vanishes. kg are sums over rows that have a figure; how many have none is given
    beside them. ``delta`` is after - before. Raises :class:`LedgerError` for a repeated activity_id.
    """
    keep = ["activity_id", *by, *KG_COLUMNS, "methodology", "emission_factor_id"]
    old, new = (_prepared(t.select(keep), side) for t, side in ((before, "before"), (after, "after")))
    joined = old.join(new, "activity_id", join_type="full outer", use_threads=False)
    added, removed = joined["here_before"].is_null(), joined["here_after"].is_null()
    both = pc.and_(pc.invert(added), pc.invert(removed))
    differs = [_differs(joined, c) for c in (*KG_COLUMNS, "methodology", "emission_factor_id")]
    changed = differs[0]
    for d in differs[1:]:
        changed = pc.or_(changed, d)
    flat = {
        "rows_changed": pc.and_(both, changed),
        "rows_added": added,
        "rows_removed": removed,
        "rows_without_kg_before": pc.and_(joined["kg_location_before"].is_null(), pc.invert(added)),
        "rows_without_kg_after": pc.and_(joined["kg_location_after"].is_null(), pc.invert(removed)),
    }
    columns = {name: pc.cast(values, pa.int64()) for name, values in flat.items()}
    columns["rows"] = pa.array(np.ones(joined.num_rows, dtype=np.int64))
    for kg in KG_COLUMNS:
        for when in ("before", "after"):
            columns[f"{kg}_{when}"] = pc.fill_null(joined[f"{kg}_{when}"], 0.0)
    for name in by:
        columns[name] = pc.coalesce(joined[f"{name}_after"], joined[f"{name}_before"])
    rows = pa.table(columns)
    sums = [c for c in REPORT_SCHEMA.names if c in columns and c not in by]
    lines = [_lines(rows, "total", None, sums), *(_lines(rows, name, name, sums) for name in by)]
    return pa.concat_tables(lines)


def _prepared(table: pa.Table, side: str) -> pa.Table:
    ids = table["activity_id"]
    if pc.count_distinct(ids).as_py() != table.num_rows:
        raise LedgerError(f"the emissions {side} hold an activity_id twice; compare one version at a time")
    plain = [
        pc.cast(table[c], pa.string()) if pa.types.is_dictionary(table[c].type) else table[c]
        for c in table.column_names
    ]
    renamed = [c if c == "activity_id" else f"{c}_{side}" for c in table.column_names]
    here = pa.nulls(table.num_rows, pa.bool_()).fill_null(True)
    return pa.table(plain, names=renamed).append_column(f"here_{side}", here)


def _differs(joined: pa.Table, column: str) -> pa.ChunkedArray:
    before, after = joined[f"{column}_before"], joined[f"{column}_after"]
    one_sided = pc.xor(before.is_null(), after.is_null())
    return pc.or_(one_sided, pc.fill_null(pc.not_equal(before, after), False))


def _lines(rows: pa.Table, scope: str, key: str | None, sums: Sequence[str]) -> pa.Table:
    grouped = rows.group_by([key] if key else [], use_threads=False).aggregate([(c, "sum") for c in sums])
    if key:
        grouped = grouped.sort_by(key)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "scope": pa.array([scope] * grouped.num_rows, pa.string()),
        "item": grouped[key] if key else pa.nulls(grouped.num_rows, pa.string()),
    }
    for name in sums:
        columns[name] = pc.fill_null(grouped[f"{name}_sum"], 0)
    for kg in KG_COLUMNS:
        columns[f"{kg}_delta"] = pc.subtract(columns[f"{kg}_after"], columns[f"{kg}_before"])
    return pa.table({name: columns[name] for name in REPORT_SCHEMA.names}).cast(REPORT_SCHEMA)
