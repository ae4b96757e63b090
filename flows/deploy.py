"""What a server is told at its start: the deployments of prefect.yaml, and the automations that it does not have."""

import subprocess
import time
from pathlib import Path

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.server import AUTOMATIONS, POOL, prefect


def deploy(env: dict[str, str], tries: int = 120) -> None:
    """Deploy everything in prefect.yaml once the worker has made its pool; then make the automations of their file.

    Raises ValueError if there is no pool after a minute, CalledProcessError if Prefect does not deploy.
    """
    with get_client(sync_client=True) as client:
        _await_pool(client, tries)
        subprocess.run(prefect("--no-prompt", "deploy", "--all"), env=env, check=True)
        for entry in yaml.safe_load(Path(AUTOMATIONS).read_text(encoding="utf-8"))["automations"]:
            if not client.read_automations_by_name(entry["name"]):
                client.create_automation(AutomationCore.model_validate(entry))


def _await_pool(client: SyncPrefectClient, tries: int) -> None:
    for _ in range(tries):
        try:
            client.read_work_pool(POOL)
            return
        except ObjectNotFound:
            time.sleep(0.5)
    raise ValueError(f"the worker did not make the work pool {POOL!r}; its messages above say why.")
