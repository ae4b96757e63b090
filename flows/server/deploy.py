"""Deploy prefect.yaml and the automations to a server that has just started, and keep what users have enabled there."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from data.settings import read_settings
from flows.server.environment import AUTOMATIONS, POOL, prefect_command
from flows.server.schedule import find_next_dates
from flows.tasks.task_runners import GPU_TAG, read_gpu_slots


@dataclass(frozen=True)
class EnabledState:
    """Schedules and automations that are enabled on a server.

    A deployment resets them to prefect.yaml: disabled.
    """

    schedules: dict[tuple[UUID, str], Any]
    """Schedule with its cron expression and parameters, by (id of the deployment, slug)."""
    triggers: set[tuple[str, Any]]
    """(name, ids of the deployments it runs) of each automation. A deployment creates automations with new ids."""

    @classmethod
    def read(cls, client: SyncPrefectClient) -> "EnabledState":
        """Read what is enabled now."""
        schedules = {(d.id, s.slug): s for d in client.read_deployments() for s in d.schedules if s.active and s.slug}
        return cls(schedules, {_key(automation) for automation in client.read_automations() if automation.enabled})

    def restore(self, client: SyncPrefectClient) -> list[str]:
        """Enable again what was enabled and is still deployed. Returns a description of each."""
        kept = []
        for deployment in client.read_deployments():
            for now in deployment.schedules:
                before = self.schedules.get((deployment.id, now.slug or ""))
                if before is None or (now.active, now.schedule) == (True, before.schedule):
                    continue
                client.update_deployment_schedule(
                    deployment.id, now.id, active=True, schedule=before.schedule, parameters=before.parameters
                )
                kept.append(f"the schedule {now.slug} of {deployment.name}, {_describe_schedule(before.schedule)}")
        for automation in client.read_automations():
            if not automation.enabled and _key(automation) in self.triggers:
                client.resume_automation(automation.id)
                kept.append(f"the automation {automation.name}")
        return kept


def _describe_schedule(schedule: Any) -> str:
    """Describe a schedule. The pages of Prefect accept a day that never comes."""
    cron = getattr(schedule, "cron", None)
    if cron is None:
        return str(schedule)
    has_dates = bool(find_next_dates(cron, schedule.timezone, 1))
    return cron if has_dates else f"{cron}, which never comes: correct it on its page"


def _key(automation: Automation) -> tuple[str, Any]:
    return automation.name, tuple(getattr(action, "deployment_id", None) for action in automation.actions)


def deploy_all(env: dict[str, str], tries: int = 120) -> list[str]:
    """Deploy prefect.yaml as soon as the worker has created its pool, then create the missing automations.

    Schedules and automations that were enabled stay enabled, with their cron expression and parameters, even if the
    deployment fails.

    Args:
        env: Environment variables of the deployment.
        tries: Number of times to look for the work pool, every half second.

    Returns:
        A description of each schedule and automation that stayed enabled.

    Raises:
        ValueError: The work pool did not appear.
        CalledProcessError: The deployment failed.
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
    """Create the concurrency limit of shards that need a GPU.

    An existing limit changes only if TERN_GPU_SLOTS is set.
    """
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
    raise ValueError(f"The worker did not create the work pool {POOL!r}. Read its messages above.")
