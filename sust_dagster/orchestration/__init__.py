"""The Dagster layer: the only code that imports dagster.

Thin by rule: it names, partitions, loads, calls one domain function, stores and attaches metadata. No arithmetic.
"""
