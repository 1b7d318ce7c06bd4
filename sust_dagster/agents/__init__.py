"""Pure domain code, one room per agent: tables and arrays in and out, no I/O and no Dagster."""
