"""Grid carbon intensity: static table, files, the simulated grid."""
