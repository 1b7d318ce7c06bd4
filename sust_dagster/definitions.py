"""What Dagster loads: the project named by ``SUST_PROJECT`` (default: ``demo``)."""

from sust_dagster.orchestration.build import build_defs

defs = build_defs()
