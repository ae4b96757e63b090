"""The nightly re-index: switched on for a plan, and how a night without news ends."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed, State
from pydantic import ValidationError

from pipeline.plans import load_plan

NIGHTLY = "nightly"  # the slug in prefect.yaml
NOTHING_TO_DO = "NothingToDo"


def make_nothing_to_do_state(version: Path, dataset: str) -> State:
    """The state of a run that found nothing new: completed, by a name of its own, so that a list of runs shows it."""
    message = f"nothing to do: {version.stem} holds all that {dataset} has"
    return Completed(name=NOTHING_TO_DO, message=message, data=str(version))


def parse_cron(cron: str, timezone: str = "UTC") -> CronSchedule:
    """The schedule of a cron line. Raises ValueError for a line that is none."""
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"cron line {cron!r}: {reason}; write five fields, such as '0 3 * * *'.") from None


def enable_nightly(plan: str, cron: str | None = None, timezone: str = "UTC") -> None:
    """Make the schedule of `reindex` active, with `plan`; `cron` replaces 03:00.

    Raises ValueError or FileNotFoundError for a plan that cannot be read or a cron line that is none, before anything
    is changed.
    """
    load_plan(plan)
    where = str(Path(plan).resolve()) if plan.endswith(".toml") else plan
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reindex/reindex")
        found = next((s for s in deployment.schedules if s.slug == NIGHTLY), None)
        if found is None:
            raise ValueError(f"the deployment reindex has no schedule {NIGHTLY!r}: deploy prefect.yaml again.")
        when = parse_cron(cron, timezone) if cron else found.schedule
        client.update_deployment_schedule(
            deployment.id, found.id, active=True, schedule=when, parameters={"plan": where}
        )
