"""The world model: what every step of the loop reads and writes.

Belongs here: table schemas, deterministic ids, the lake (bulk tables), the books (transactional
tables) and the permission matrix. Does not belong here: any formula, any outside system, Dagster.
"""
