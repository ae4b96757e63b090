"""What a server is told at its start: the deployments of prefect.yaml, and the automations that it does not have."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from data.settings import read_settings
from flows.server.environment import AUTOMATIONS, POOL, prefect_command
from flows.tasks.task_runners import GPU_TAG, read_gpu_slots


@dataclass(frozen=True)
class EnabledState:
    """What was switched on at a server. Deploying puts all back to what prefect.yaml says, which is off."""

    schedules: dict[tuple[Any, str], Any]  # (id of the deployment, slug): the schedule, with its hour and parameters
    triggers: set[tuple[str, Any]]  # (name, ids of the deployments that it runs): deploying makes new ones

    @classmethod
    def read(cls, client: SyncPrefectClient) -> "EnabledState":
        """What is switched on now."""
        there = {(d.id, s.slug): s for d in client.read_deployments() for s in d.schedules if s.active and s.slug}
        return cls(there, {_key(automation) for automation in client.read_automations() if automation.enabled})

    def restore(self, client: SyncPrefectClient) -> list[str]:
        """Switch on what is off of these and still deployed; returns a line for each."""
        kept = []
        for deployment in client.read_deployments():
            for now in deployment.schedules:
                before = self.schedules.get((deployment.id, now.slug))
                if before is None or (now.active, now.schedule) == (True, before.schedule):
                    continue
                told = {"schedule": before.schedule, "parameters": before.parameters}
                client.update_deployment_schedule(deployment.id, now.id, active=True, **told)
                when = getattr(before.schedule, "cron", None) or before.schedule
                kept.append(f"the schedule {now.slug} of {deployment.name}, {when}")
        for automation in client.read_automations():
            if not automation.enabled and _key(automation) in self.triggers:
                client.resume_automation(automation.id)
                kept.append(f"the automation {automation.name}")
        return kept


def _key(automation: Automation) -> tuple[str, Any]:
    return automation.name, tuple(getattr(action, "deployment_id", None) for action in automation.actions)


def deploy_all(env: dict[str, str], tries: int = 120) -> list[str]:
    """Deploy everything in prefect.yaml once the worker has made its pool; then make the automations of their file.

    Schedules and automations of the deployments that were switched on stay so, with their hour and parameters, also if
    Prefect does not deploy. Returns what was kept so, a line each.

    Raises ValueError if there is no pool after a minute, CalledProcessError if Prefect does not deploy.
    """
    with get_client(sync_client=True) as client:
        _await_pool(client, tries)
        before = EnabledState.read(client)
        try:
            subprocess.run(prefect_command("--no-prompt", "deploy", "--all"), env=env, check=True)
        finally:
            kept = before.restore(client)
        create_gpu_limit(client)
        for entry in yaml.safe_load(Path(AUTOMATIONS).read_text(encoding="utf-8"))["automations"]:
            if not client.read_automations_by_name(entry["name"]):
                client.create_automation(AutomationCore.model_validate(entry))
    return kept


def create_gpu_limit(client: SyncPrefectClient) -> None:
    """Shards that need a GPU wait for one of `gpus()` slots; a limit that someone has set stays unless TERN_GPU_SLOTS is."""
    try:
        client.read_concurrency_limit_by_tag(GPU_TAG)
    except ObjectNotFound:
        client.create_concurrency_limit(GPU_TAG, read_gpu_slots())
    else:
        if read_settings().gpu_slots is not None:
            client.update_global_concurrency_limit(
                f"tag:{GPU_TAG}", GlobalConcurrencyLimitUpdate(limit=read_gpu_slots())
            )


def _await_pool(client: SyncPrefectClient, tries: int) -> None:
    for _ in range(tries):
        try:
            client.read_work_pool(POOL)
            return
        except ObjectNotFound:
            time.sleep(0.5)
    raise ValueError(f"the worker did not make the work pool {POOL!r}; its messages above say why.")
