"""What a flow run shows: artifacts, log lines, and a command that runs on failure. Knows no stage."""
