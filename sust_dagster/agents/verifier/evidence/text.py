"""RFC 8785 text of whole columns, put together from parts.

Belongs here: numbers, texts, lists and objects as canonical text, fast enough for tens of thousands of rows. Does not
belong here: what is in a document.

Every function gives the very bytes of ``rfc8785`` (the tests hold it to that package).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa

from sust_dagster.world.canonical import EXACT

_plain = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical_number(value: float | None) -> str:
    """One number as ECMAScript writes it; null for None and for what is no finite number."""
    if value is None or not math.isfinite(value):
        return "null"
    text = repr(float(value))
    if text.endswith(".0"):
        text = text[:-2]
        return "0" if text == "-0" else text
    if "e" not in text:
        return text
    sign, text = ("-", text[1:]) if text[0] == "-" else ("", text)
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits, power = whole + fraction, int(exponent)
    # Python turns to exponents below 1e-4 and from 1e16, ECMAScript below 1e-6 and from 1e21.
    if 0 <= power < 21:
        return sign + digits + "0" * (power + 1 - len(digits))
    if -7 < power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    return f"{sign}{mantissa}e{power:+d}"


def canonical_numbers(values: Sequence[float | None]) -> list[str]:
    """Numbers of a column, as :func:`canonical_number` each."""
    return [canonical_number(v) for v in values]


@lru_cache(maxsize=65_536)
def quoted(text: str) -> str:
    """A text in quotes. Raises ``UnicodeEncodeError`` for half a surrogate pair, which has no bytes."""
    text.encode()
    return encode_basestring(text)


def as_texts(column: pa.ChunkedArray) -> list[str]:
    """The values of a column of texts, numbers or booleans; null where there is none.

    Raises ``ValueError`` for an integer beyond 2^53 and for a column of another kind.
    """
    kind, values = column.type, column.to_pylist()
    if pa.types.is_floating(kind):
        return canonical_numbers(values)
    if pa.types.is_boolean(kind):
        return ["null" if v is None else "true" if v else "false" for v in values]
    if pa.types.is_integer(kind):
        if any(v is not None and not -EXACT < v < EXACT for v in values):
            raise ValueError("an integer beyond 2^53 reads differently elsewhere")
        return ["null" if v is None else str(v) for v in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return ["null" if v is None else quoted(v) for v in values]
    raise ValueError(f"a column of {kind} has no canonical text")


def listed(texts: Iterable[str]) -> str:
    """A list of values that are texts already."""
    return f"[{','.join(texts)}]"


def obj(members: Mapping[str, str]) -> str:
    """An object of values that are texts already, in order of their names."""
    return "{" + ",".join([f"{quoted(n)}:{members[n]}" for n in member_order(members)]) + "}"


def member_order(names: Iterable[str]) -> list[str]:
    """Names in order of their UTF-16 code units."""
    listing = list(names)
    plain = all(map(str.isascii, listing))
    return sorted(listing) if plain else sorted(listing, key=lambda name: name.encode("utf-16-be"))


def canonical(value: Any) -> str:
    """The text of a document of dictionaries, lists, texts, booleans, null, finite numbers."""
    if isinstance(value, str):
        return quoted(value) if len(value) < 200 else _plain(value)
    if value is None or isinstance(value, bool):
        return _plain(value)
    if isinstance(value, int):
        if not -EXACT < value < EXACT:
            raise ValueError(f"{value} is beyond 2^53 and reads differently elsewhere")
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number that JSON has")
        return canonical_number(value)
    if isinstance(value, Mapping):
        return obj({name: canonical(member) for name, member in value.items()})
    if isinstance(value, list | tuple):
        return listed([canonical(member) for member in value])
    raise ValueError(f"{type(value).__name__} has no canonical text")
