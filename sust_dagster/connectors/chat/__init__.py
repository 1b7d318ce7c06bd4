"""Targets of the kind chat; see ``connectors.targets``."""
