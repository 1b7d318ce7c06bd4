"""Mapping files: YAML on disk to a checked mapping.

Belongs here: reading the file and naming it in errors. What a mapping may hold is the ingestor's.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from sust_dagster.agents.ingestor.mapping import MappingError, MappingRules
from sust_dagster.connectors.billing.errors import BillingError


def load_mapping(path: str | Path | None = None) -> MappingRules:
    """The mapping in a YAML file; the shipped default without one. Raises :class:`BillingError` naming file and key."""
    if not path:
        return MappingRules.from_dict()
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BillingError(
            f"cannot be read: {error.strerror}", file=str(path), fix="check the path of the mapping"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BillingError(f"is no YAML: {error}", file=str(path), fix="see docs/mapping.md") from error
    try:
        return MappingRules.from_dict(document)
    except MappingError as error:
        raise BillingError(str(error), file=str(path), fix="see docs/mapping.md") from error
