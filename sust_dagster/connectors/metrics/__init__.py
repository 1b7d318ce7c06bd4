"""What monitoring sees of workloads: the sources of health figures for the executor's canary."""
