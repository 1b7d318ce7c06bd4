"""vCPU counts read from Azure size names, by Microsoft's published naming rule.

Belongs here: the rule, and nothing that the name does not say (memory and CPU are not in the name).

The rule: ``[Standard_]<family><sub-family><vCPUs>[-<constrained vCPUs>]<features>[_<accelerator>][_v<version>]``.
A constrained size bills the memory of the larger size and runs the smaller number of vCPUs. Sizes named
before the rule (A, D1-D15, DS, G, GS, and their v2) carry an index instead of a count and are refused here;
the common ones stand in the instance table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIZE = re.compile(
    r"""^(?:Standard_|Basic_)?
    (?P<family>[A-Z]{1,3}?)(?P<sub>(?<=[A-Z])[A-Z]*)
    (?P<vcpus>\d+)(?:-(?P<constrained>\d+))?
    (?P<features>[a-z]*)
    (?:_(?P<accelerator>[A-Z][A-Z0-9]+))?
    (?:_v(?P<version>\d+))?$""",
    re.VERBOSE,
)

#: Families whose number is an index, not a vCPU count, in the versions given ("" is no version).
_INDEXED: dict[str, frozenset[str]] = {
    "A": frozenset({""}),
    "D": frozenset({"", "2"}),
    "DS": frozenset({"", "2"}),
    "G": frozenset({""}),
    "GS": frozenset({""}),
}


@dataclass(frozen=True)
class AzureSize:
    """What a size name says: family letters, vCPUs it runs, features, accelerator text and version."""

    family: str
    vcpus: int
    features: str
    accelerator: str
    version: str


def azure_size(name: str) -> AzureSize | None:
    """Parse an Azure size name; None where the name does not follow the rule or holds an index, never a guess."""
    match = _SIZE.match(name.strip().replace(" ", "_"))
    if match is None:
        return None
    family = match["family"] + match["sub"]
    version = match["version"] or ""
    if version in _INDEXED.get(family, frozenset()):
        return None
    return AzureSize(
        family=family,
        vcpus=int(match["constrained"] or match["vcpus"]),
        features=match["features"],
        accelerator=match["accelerator"] or "",
        version=version,
    )
