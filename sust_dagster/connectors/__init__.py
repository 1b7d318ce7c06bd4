"""Everything that talks to an outside system, one small protocol per kind. Knows the outside shapes, nothing of Dagster."""
