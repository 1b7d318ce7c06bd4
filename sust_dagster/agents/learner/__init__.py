"""LEARN: calibration, posteriors and drift."""
