"""Ids are the same for the same natural key, one at a time or by the column."""

from __future__ import annotations

import uuid

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.world.ids import NAMESPACE, SEPARATOR, digest_parts, uuid5, uuid5_column

TEXT = st.text(
    alphabet=st.characters(blacklist_characters="\x00" + SEPARATOR, blacklist_categories=["Cs"]), max_size=20
)


def test_an_id_is_the_uuid5_of_its_parts() -> None:
    made = uuid5("activity", "file.csv", 7)
    assert made == str(uuid.uuid5(NAMESPACE, "activity\x1ffile.csv\x1f7"))
    assert uuid.UUID(made).version == 5
    assert made == "f21deee8-3ff8-5c74-b659-32113df78df2"  # a release may never change its ids


def test_kind_and_parts_are_kept_apart() -> None:
    assert len({uuid5("a", "b", "c"), uuid5("a", "bc"), uuid5("ab", "c"), uuid5("a", "c", "b")}) == 4


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30))
def test_a_column_of_ids_is_the_ids_one_by_one(rows: list[tuple[str, str]]) -> None:
    one, two = zip(*rows, strict=True)
    made = uuid5_column("kind", [pa.array(one, pa.string()), pa.array(two, pa.string())]).to_pylist()
    assert made == [uuid5("kind", a, b) for a, b in rows]


def test_nulls_chunks_and_nothing() -> None:
    chunked = pa.chunked_array([["x"], [None]], pa.string())
    assert uuid5_column("k", [chunked, pa.array([1, 2])]).to_pylist() == [uuid5("k", "x", 1), uuid5("k", "", 2)]
    assert uuid5_column("k", [pa.array([], pa.string())]).to_pylist() == []
    assert uuid5_column("k", []).to_pylist() == []


def test_a_digest_tells_its_parts_apart() -> None:
    assert digest_parts("a", "bc") != digest_parts("ab", "c")
    assert len(digest_parts("a")) == 64
