"""Everything that talks to an outside system, one small protocol per kind.

Knows the outside shapes, nothing of Dagster and nothing of what is done with the data.
"""
