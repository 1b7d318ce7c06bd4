"""The fake cloud: clock, workloads, carbon intensity, prices, latency, outages."""
