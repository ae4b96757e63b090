"""Environment of `flows`."""

import os
import sys

HOST, PORT = "127.0.0.1", 4200
POOL = "local"
NIGHTLY_CRON = "0 3 * * *"
AUTOMATIONS = "automations.yaml"
# Nothing leaves the machine, and nothing asks questions.
PREFECT_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 calls an analytics host from the browser even when told not to
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_PLUGINS_ENABLED": "false",  # the plugin is for the `prefect` command that a person types
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # automations.yaml: none for 90 s is a crash
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",  # 30 by default: idle GPUs between shards
    # Leases in the server's memory are lost when it is started again: a slot of a run that died meanwhile stays taken,
    # and Prefect ends a deployment's run that lives, since it cannot renew its own.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def make_environment(port: int | None) -> dict[str, str]:
    """Variables of every Prefect process: its server, this folder (for prefect.yaml), and the quiet settings.

    Without a port the server is the one of PREFECT_API_URL, on whatever machine, else `PORT` of this one.
    """
    given = os.environ.get("PREFECT_API_URL") if port is None else None
    address = given or f"http://{HOST}:{port or PORT}/api"
    return {**os.environ, **PREFECT_SETTINGS, "PWD": os.getcwd(), "PREFECT_API_URL": address}


def apply_environment(port: int | None) -> None:
    """Give this process the settings of `environment`; before Prefect is imported, since it reads them once."""
    os.environ.update(make_environment(port))


def prefect_command(*words: str) -> list[str]:
    """The command line of Prefect in this very environment."""
    return [sys.executable, "-m", "prefect", *words]
