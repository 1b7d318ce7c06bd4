"""Canonical JSON (RFC 8785) and its SHA-256: one document has one text, and one text one hash.

Belongs here: the text form that hashes of plans, policies and records are taken over. Does not belong here: what is
in those documents.
"""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785


def canonical_json(value: Any) -> str:
    """The text of ``value`` by RFC 8785: keys in order of their UTF-16 code units, no spaces, numbers as ECMAScript.

    Takes dictionaries with text keys, lists, tuples, text, booleans, null, finite floats and integers below 2^53.
    Raises ``ValueError`` for anything else: what a hash is taken over must read the same everywhere.
    """
    try:
        return rfc8785.dumps(value).decode()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"no canonical JSON: {error}") from error


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
