"""Prefect tasks: jobs of a stage go in, their results come out, with retries and time limits. Knows no stage."""
