"""The fake cloud: workloads, bills, grids, prices, latency and outages, all from one seed.

``cloud.FakeCloud`` is its face. Pure code: no orchestration, no wall clock, no global random state; the only file it
reads is a grid trace, through ``replay.read_trace(path)``. Connectors reach it as they reach any other outside
system; no agent does.
"""
