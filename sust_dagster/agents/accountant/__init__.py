"""MODEL: from activity and grid intensity to emissions with bounds. Strictly deterministic."""
