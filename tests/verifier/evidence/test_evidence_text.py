"""The text of bundles and of their recomputation, byte for byte that of RFC 8785."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.verifier.evidence import recompute, text

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
#: Around the places where ECMAScript and Python turn to exponents.
EDGES = st.builds(lambda m, e: m * 10.0**e, st.floats(-10, 10, allow_nan=False), st.integers(-25, 25))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=400)
@given(FLOATS | EDGES)
def test_a_number_is_written_as_the_standard_writes_it(value: float) -> None:
    expected = rfc8785.dumps(value).decode()
    assert text.canonical_number(value) == expected
    assert recompute.number(value) == expected


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"), (-0.0, "0"), (1.0, "1"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-6, "0.000001"),
        (1e-7, "1e-7"), (1.5e-9, "1.5e-9"), (123456789012345680000.0, "123456789012345680000"), (5e-324, "5e-324"),
        (333333333.33333329, "333333333.3333333"), (-1.7976931348623157e308, "-1.7976931348623157e+308"),
        (9007199254740994.0, "9007199254740994"), (0.00012, "0.00012"),
    ],
)  # fmt: skip
def test_numbers_of_the_standard(value: float, written: str) -> None:
    assert text.canonical_number(value) == recompute.number(value) == written


@given(DOCUMENTS)
def test_a_document_has_the_text_of_the_standard(document: object) -> None:
    expected = rfc8785.dumps(document)
    assert text.canonical(document).encode() == expected
    assert recompute.canonical(document).encode() == expected


@given(st.lists(FLOATS | EDGES | st.none()), st.lists(TEXTS | st.none()), st.lists(WHOLE | st.none()))
def test_columns_have_the_text_of_the_standard(
    numbers: list[float | None], texts: list[str | None], whole: list[int | None]
) -> None:
    for values, kind in ((numbers, pa.float64()), (texts, pa.string()), (whole, pa.int64())):
        column = pa.chunked_array([pa.array(values, kind)])
        assert text.listed(text.as_texts(column)).encode() == rfc8785.dumps(values)


def test_what_has_no_text_is_refused() -> None:
    assert text.canonical_numbers([math.nan, math.inf, None]) == ["null", "null", "null"]
    for value in (2**53, math.nan, object(), "\ud800"):
        with pytest.raises(ValueError):
            text.canonical(value)
    with pytest.raises(ValueError, match="2\\^53"):
        text.as_texts(pa.chunked_array([pa.array([2**53], pa.int64())]))
    with pytest.raises(ValueError, match="no canonical text"):
        text.as_texts(pa.chunked_array([pa.array([b"x"])]))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 40))
def test_the_words_of_a_stream_are_those_of_philox(digest: bytes, count: int) -> None:
    import numpy as np

    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    assert recompute._philox(digest, count) == np.random.Philox(key=key).random_raw(count).tolist()
