"""Canonical JSON (RFC 8785) and its SHA-256: one document has one text, and one text one hash.

Belongs here: the text form that hashes of plans, policies and records are taken over. Does not belong here: what is
in those documents.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import rfc8785

#: Integers below it are exact in every reader of JSON.
EXACT = 2**53


def canonical_json(value: Any) -> str:
    """The text of ``value`` by RFC 8785: keys in order of their UTF-16 code units, no spaces, numbers as ECMAScript.

    Takes dictionaries with text keys, lists, tuples, text, booleans, null, finite floats and integers below 2^53.
    Raises ``ValueError`` for anything else: what a hash is taken over must read the same everywhere.
    """
    try:
        return _written(_Same(value))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"no canonical JSON: {error}") from error


def canonical_bytes(value: Any) -> bytes:
    """The same text in UTF-8, not kept for another time: for what is hashed once, such as a row.

    Raises ``ValueError`` as :func:`canonical_json` does.
    """
    try:
        if type(value) is dict and all(map(_is_plain, value, value.values())):
            return _plainly(value).encode()
        return _text(value).encode()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"no canonical JSON: {error}") from error


#: Without fractions and with names in ASCII, the standard library writes what RFC 8785 asks for.
_plainly = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _is_plain(name: Any, value: Any) -> bool:
    kind = type(value)
    fits = kind is str or kind is bool or (kind is int and -EXACT < value < EXACT)
    return fits and type(name) is str and name.isascii()


_quoted = json.encoder.encode_basestring


def _text(value: Any) -> str:
    """What ``rfc8785`` writes, at a third of its time; what is not of the plain kinds it writes, or refuses, itself."""
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is float:
        text = repr(value)
        if "e" not in text and "n" not in text:  # neither an exponent nor inf or nan: the shortest digits are the same
            return text if not text.endswith(".0") else text[:-2] if value else "0"
    elif kind is int:
        if -EXACT < value < EXACT:
            return repr(value)
    elif kind is dict:
        if all(type(k) is str for k in value) and "".join(value).isascii():  # in which code units sort as characters
            return "{" + ",".join([f"{_quoted(k)}:{_text(value[k])}" for k in sorted(value)]) + "}"
    elif kind is list or kind is tuple:
        return "[" + ",".join([_text(v) for v in value]) + "]"
    elif kind is bool:
        return "true" if value else "false"
    elif value is None:
        return "null"
    return rfc8785.dumps(value).decode()


class _Same:
    """A document as a key: the same texts, kinds and numbers in the same order are one document."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._key = repr(value)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._key == other._key and type(self.value) is type(other.value)


@lru_cache(maxsize=2_048)
def _written(document: _Same) -> str:
    # The same plan is hashed many times between its proposal and its end.
    text = _text(document.value)
    text.encode()  # half a character has no bytes
    return text


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
