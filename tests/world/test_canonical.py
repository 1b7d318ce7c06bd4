"""Canonical JSON against the vectors of RFC 8785, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.world.canonical import canonical_bytes, canonical_json, content_hash

#: RFC 8785, appendix B: bits of a double → its text.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_of_the_rfc(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(value) == text


def test_the_documents_of_the_rfc() -> None:
    given_text = (
        '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
        '"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}'
    )
    assert canonical_json(json.loads(given_text)) == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}
    assert list(json.loads(canonical_json(keys)).values()) == [2, 4, 6, 7, 1, 5, 3], "UTF-16 order, not code points"


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
#: From 2^53 on a float without a fraction is written as digits that readers with whole numbers take for another one.
NUMBER = st.integers(1 - 2**53, 2**53 - 1) | st.floats(1 - 2**53, 2**53 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


@given(PLAIN)
def test_it_reads_back_as_the_same_and_stays_the_same(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert content_hash(value) == hashlib.sha256(text.encode()).hexdigest()


ROW = st.dictionaries(
    st.text(st.characters(max_codepoint=0x7F), max_size=4) | TEXT,
    TEXT | st.booleans() | st.integers(-(2**53), 2**53) | st.none() | NUMBER,
)


@given(ROW | PLAIN)
def test_a_row_is_written_the_quick_way_as_any_other(value: Any) -> None:
    try:
        text = canonical_json(value)
    except ValueError:
        with pytest.raises(ValueError, match="no canonical JSON"):
            canonical_bytes(value)
    else:
        assert canonical_bytes(value) == text.encode()


def test_every_character_is_written_the_quick_way_as_any_other() -> None:
    text = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x11000))))
    assert canonical_bytes({"a": text}) == canonical_json({"a": text}).encode()
    for value in ({"a": "\ud800"}, {"a": 2**53}, {"a": -(2**53)}, {"a": float("nan")}, {1: "a"}):
        with pytest.raises(ValueError, match="no canonical JSON"):
            canonical_bytes(value)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53 + 1,
        10**400,
        Decimal(1),
        datetime(2026, 1, 1, tzinfo=UTC),
        {1: 2},
        {1},
        b"x",
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical_json({"a": [value]} if not isinstance(value, dict) else value)
