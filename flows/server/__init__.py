"""The Prefect server: start it, deploy the flows, start a run and follow it. Knows no stage."""
