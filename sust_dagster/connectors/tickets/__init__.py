"""Targets of the kind tickets; see ``connectors.targets``."""
