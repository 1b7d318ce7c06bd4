"""The runs behind a usage ratio, as one canonical JSON document per pool.

Belongs here: what such a document holds and its exact bytes. Does not belong here: the comparison itself
(``causal.comparison``), files, or the bundles that name a document by its SHA-256 (``bundle``).

A pool's comparison has thousands of runs and many outcomes rest on it, so it is a document of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.verifier.causal.comparison import Comparison
from sust_dagster.agents.verifier.evidence.text import as_texts, canonical, canonical_number, listed, obj, quoted

#: The folder beside the bundles that holds these documents.
COMPARISONS = "comparisons"

#: Name and version of the document's form.
COMPARISON_FORMAT = "sust-comparison/v1"


@dataclass(frozen=True)
class Compared:
    """The document of one pool: its bytes and their SHA-256, which is its name."""

    pool: str
    sha256: str
    data: bytes


def comparisons(comparison: Comparison, slots: Mapping[str, str], *, seed: int, share: float) -> list[Compared]:
    """One document per pool, in order of the pools. ``slots``: of the emissions, slot and SHA-256 of its file.

    Columns of ``runs``: as COMPARED, ``requested_hour`` in hours since 1970 UTC; ``energy_kwh`` is null for runs that
    may not have ended. ``inputs`` names the files that hold the usage.
    """
    out = []
    for pool in comparison.ratios["pool"].to_pylist():
        runs = comparison.runs.filter(pc.equal(comparison.runs["pool"], pool))
        hours = comparison.hours.filter(pc.equal(comparison.hours["pool"], pool))["hour"]
        named = [(f"{hour:%Y-%m-%d}", f"{hour:%Y-%m-%dT%H}") for hour in hours.to_pylist()]
        text = obj(
            {
                "draw": obj({"seed": str(seed), "share": canonical_number(share)}),
                "format": quoted(COMPARISON_FORMAT),
                "inputs": obj(
                    {
                        "emissions": listed(
                            quoted(f"date={day}/{slot}-{slots[slot]}.parquet") for day, slot in named if slot in slots
                        )
                    }
                ),
                "pool": quoted(pool),
                "runs": obj({name: listed(column) for name, column in _columns(runs).items()}),
            }
        )
        data = text.encode()
        out.append(Compared(pool, hashlib.sha256(data).hexdigest(), data))
    return out


def _columns(runs: pa.Table) -> dict[str, list[str]]:
    hours = pc.divide(pc.cast(runs["requested_hour"], pa.int64()), HOUR_US)
    columns = {n: as_texts(runs[n]) for n in ("run_id", "workload_id", "moved", "vcpus_scale", "energy_kwh")}
    return columns | {"requested_hour": as_texts(hours)}


def ratio_text(row: Mapping[str, object], comparison_sha256: str) -> str:
    """The section of a bundle that states its usage ratio: a row of ``USAGE_RATIOS`` and the document behind it."""
    return canonical({**row, "comparison_sha256": comparison_sha256})
