"""VERIFY: counterfactuals, intervals and evidence."""
