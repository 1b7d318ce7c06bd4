"""SENSE: from billed usage in normal form to the activity ledger, or to quarantine with a reason."""
