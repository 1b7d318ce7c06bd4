"""DECIDE: forecasts, candidates, plans and recommendations."""
