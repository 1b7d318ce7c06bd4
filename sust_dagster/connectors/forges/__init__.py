"""Targets of the kind forges; see ``connectors.targets``."""
