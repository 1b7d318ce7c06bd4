"""The formats a bill may be in, and how one is recognised by its columns.

Belongs here: what a format declares, the list of them, and the choice. What a format's columns mean is in its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sust_dagster.connectors.billing.errors import BillingError, UnknownFormatError
from sust_dagster.connectors.billing.fields import Column, Fields, plain_name

#: Columns of the normal form, by name.
Converted = dict[str, pa.Array]


@dataclass(frozen=True)
class Format:
    """One format: how it is recognised, its columns, and their way into the normal form.

    ``is_ours`` and ``name`` get plain column names (lower case, no blanks or underscores). ``shown`` maps columns
    of the normal form to meanings, so that quarantine can name the file's own column.
    """

    name: Callable[[frozenset[str]], str]
    is_ours: Callable[[frozenset[str]], bool]
    columns: Mapping[str, Column]
    convert: Callable[[Fields], Converted]
    shown: Mapping[str, str]
    tag_columns: Callable[[Sequence[str]], list[str]] = field(default=lambda _: [])


def recognise(columns: Sequence[str], label: str) -> Format:
    """The format of a file with these columns.

    Raises :class:`UnknownFormatError` where it is none we know, :class:`BillingError` where columns are missing.
    """
    from sust_dagster.connectors.billing import aws, azure, focus, gcp, oci

    names = frozenset(plain_name(c) for c in columns)
    for candidate in (focus.FORMAT, oci.FORMAT, aws.FORMAT, gcp.FORMAT, azure.FORMAT):
        if candidate.is_ours(names):
            _require(candidate, names, label)
            return candidate
    shown = ", ".join(list(columns)[:8]) + (", ..." if len(columns) > 8 else "")
    raise UnknownFormatError(
        f"is in no format we read; its columns are {shown or '(none)'}", file=label,
        fix="export FOCUS 1.0-1.3, AWS CUR or CUR 2.0, a GCP billing export, Azure cost details or an OCI cost report",
    )  # fmt: skip


def _require(found: Format, names: frozenset[str], label: str) -> None:
    missing = [
        column.names[0]
        for column in found.columns.values()
        if column.required and not any(plain_name(n) in names for n in column.names)
    ]
    if missing:
        raise BillingError(
            f"looks like {found.name(names)}, but required columns are missing: {', '.join(missing)}",
            file=label,
            column=missing[0],
            fix="export the bill with all its columns",
        )
