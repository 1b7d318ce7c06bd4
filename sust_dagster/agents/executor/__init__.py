"""ACT: what to change and the states of a change; the outside is reached through connectors."""
