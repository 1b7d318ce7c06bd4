"""Deterministic ids: UUIDv5 over a natural key, one value or a whole column at a time.

Belongs here: how ids are made. An id never contains a clock or a random number, so a re-run cannot
double-count.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

#: Namespace of every id the product makes.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://sust-ai-naible.dev/ids")

#: Joins the parts of a natural key; the unit separator does not occur in billing text.
SEPARATOR = "\x1f"


_local = threading.local()


def uuid5(kind: str, *parts: object) -> str:
    """UUIDv5 (RFC 9562) of one natural key."""
    return str(uuid.uuid5(NAMESPACE, SEPARATOR.join([kind, *map(str, parts)])))


def _connection() -> duckdb.DuckDBPyConnection:
    """The in-memory connection of this thread: opening one costs more than hashing an hour's rows."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = duckdb.connect()
    return connection


def uuid5_column(kind: str, parts: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Array:
    """UUIDv5 of many natural keys: same ids as :func:`uuid5` of the same string parts, hashed in one pass.

    ``parts`` are string columns of equal length; nulls count as empty strings.
    """
    columns = [pc.fill_null(pc.cast(p, pa.string()), "") for p in parts]
    n = len(columns[0]) if columns else 0
    if n == 0:
        return pa.array([], pa.string())
    names = pc.binary_join_element_wise(pa.scalar(kind), *columns, SEPARATOR)
    keys = pa.table({"name": names})
    connection = _connection()
    connection.register("keys", keys)
    hexed = connection.sql(
        f"""
        with hashed as (select sha1(from_hex('{NAMESPACE.hex}') || encode(name)) as h from keys)
        select h[1:8] || '-' || h[9:12] || '-5' || h[14:16] || '-'
            || substr('89ab', (instr('0123456789abcdef', h[17]) - 1) % 4 + 1, 1) || h[18:20]
            || '-' || h[21:32] as id
        from hashed
        """
    ).to_arrow_table()
    connection.unregister("keys")
    return pc.cast(hexed.column(0), pa.string()).combine_chunks()


def digest_parts(*parts: str) -> str:
    """SHA-256 over text parts, as hex."""
    return hashlib.sha256(SEPARATOR.join(parts).encode()).hexdigest()
