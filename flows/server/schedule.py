"""The nightly run of `reindex`: its schedule, and the state of a run that finds no changes."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed, State
from pydantic import ValidationError

from pipeline.plans import load_plan

NIGHTLY = "nightly"  # slug of the schedule in prefect.yaml
NOTHING_TO_DO = "NothingToDo"


def make_nothing_to_do_state(version: Path, dataset: str) -> State:
    """Make the state of a run without changes: completed, with a name of its own that lists of runs show."""
    message = f"nothing to do: {version.stem} holds all that {dataset} has"
    return Completed(name=NOTHING_TO_DO, message=message, data=str(version))


def parse_cron(cron: str, timezone: str = "UTC") -> CronSchedule:
    """Parse a cron expression. Raises ValueError if it is not valid."""
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(
            f"The cron expression {cron!r} is not valid: {reason}. Write five fields, such as '0 3 * * *'."
        ) from None


def enable_nightly(plan: str, cron: str | None = None, timezone: str = "UTC") -> None:
    """Enable the nightly schedule of the deployment `reindex`.

    Args:
        plan: Plan file, or the name of a shipped plan.
        cron: Cron expression; None keeps the one of the schedule.
        timezone: Time zone of `cron`.

    Raises:
        FileNotFoundError: The plan does not exist. Nothing was changed.
        ValueError: The plan or the cron expression is not valid, or the deployment has no such schedule. Nothing was
            changed.
    """
    load_plan(plan)
    where = str(Path(plan).resolve()) if plan.endswith(".toml") else plan
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reindex/reindex")
        found = next((s for s in deployment.schedules if s.slug == NIGHTLY), None)
        if found is None:
            raise ValueError(f"The deployment reindex has no schedule {NIGHTLY!r}. Run `prefect deploy --all`.")
        when = parse_cron(cron, timezone) if cron else found.schedule
        client.update_deployment_schedule(
            deployment.id, found.id, active=True, schedule=when, parameters={"plan": where}
        )
