"""What a saving cost those it was made for: promises kept, money, drift from the estimate, rebound.

Belongs here: SLA compliance, the measured cost delta, divergence from the estimate, a team's footprint beside its
claims. Does not belong here: carbon of runs, credit, any I/O or clock.
"""
