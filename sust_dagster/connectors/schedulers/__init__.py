"""Targets of the kind schedulers; see ``connectors.targets``."""
