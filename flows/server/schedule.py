"""The nightly run of `reindex`: its schedule, and the state of a run that finds no changes."""

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed, State
from pydantic import ValidationError

from pipeline.plans import load_plan

NIGHTLY = "nightly"  # slug of the schedule in prefect.yaml
NOTHING_TO_DO = "NothingToDo"


def make_nothing_to_do_state(version: Path, reason: str) -> State:
    """Make the state of a run that publishes nothing: completed, with a name of its own that lists of runs show."""
    return Completed(name=NOTHING_TO_DO, message=f"nothing to do: {reason}", data=str(version))


def describe_rollback(version: int, is_kept: bool) -> str:
    """Say what a run does about a version that a rollback pinned."""
    if not is_kept:
        return f"version {version} is pinned by a rollback, which ends if this run publishes a version"
    return (
        f"version {version} is pinned by a rollback and stays published. To publish again, run `tern index update` or "
        "`tern index`, or start this flow with keep_rollback=false"
    )


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
