"""Settings of all Prefect processes that this project starts: address, work pool, environment variables."""

import os
import sys

HOST, PORT = "127.0.0.1", 4200
POOL = "local"
WORKER = "tern-up"  # the worker that `tern up` starts; with --no-server, the name of the machine follows
NIGHTLY_CRON = "0 3 * * *"
AUTOMATIONS = "automations.yaml"
ALLOWED_ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"  # USER:PASSWORD that the server demands of each request
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"  # what its clients send
# No data leaves the machine, and no command prompts.
PREFECT_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 calls an analytics host from the browser regardless of the settings
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_PLUGINS_ENABLED": "false",  # the plugin is only for the `prefect` command of a user
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; automations.yaml marks runs without one for 90 s as crashed
    # With the default of 30 seconds, GPUs are idle between shards.
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    # Leases in the memory of the server are lost when it restarts: the slot of a run that died in the meantime stays
    # occupied, and Prefect ends a running run of a deployment, because it cannot renew its lease.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def make_environment(port: int | None) -> dict[str, str]:
    """Make the environment variables of a Prefect process.

    These are the server, the current folder (for prefect.yaml), the settings, and the password of the server.

    Args:
        port: Port of a server on this machine; None uses PREFECT_API_URL if it is set, else `PORT`.
    """
    url = os.environ.get("PREFECT_API_URL") if port is None else None
    address = url or f"http://{HOST}:{port or PORT}/api"
    defaults = {}
    if port is not None:  # by default, Prefect lets web pages of all hosts read its answers and start runs
        defaults[ALLOWED_ORIGINS] = ",".join(f"http://{name}:{port}" for name in (HOST, "localhost"))
    if password := os.environ.get(SERVER_AUTH):
        defaults[CLIENT_AUTH] = password
    return {**defaults, **os.environ, **PREFECT_SETTINGS, "PWD": os.getcwd(), "PREFECT_API_URL": address}


def apply_environment(port: int | None) -> None:
    """Set the variables of `make_environment` in this process.

    Call it before Prefect is imported, because Prefect reads them once.
    """
    os.environ.update(make_environment(port))


def prefect_command(*words: str) -> list[str]:
    """Return a command line of Prefect that uses the Python interpreter of this process."""
    return [sys.executable, "-m", "prefect", *words]
