"""Stages, plans, the command line and the search service. Knows nothing of Prefect."""
