"""The nightly run of `reindex`: its schedule, and the state of a run that finds no changes."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from prefect._vendor.croniter import CroniterBadDateError, croniter  # what its scheduler uses
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed, State
from pydantic import ValidationError

from pipeline.plan_files import locate_plan
from pipeline.plans import load_plan

REINDEX, NIGHTLY = "reindex", "nightly"  # deployment and slug of the schedule in prefect.yaml
NUM_CRON_FIELDS = 5  # a sixth would be seconds, at the end; other programs have them at the start
NUMBERS = {0: "no", 1: "one", 2: "two", 3: "three", 4: "four", 6: "six", 7: "seven"}
CRON_FIELDS = "minute, hour, day of month, month, day of week"
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
    """Parse a cron line.

    Raises:
        ValueError: The line does not have five fields, a field is not valid, it names a day that never comes, or the
            time zone is unknown.
    """
    count = len(cron.split())
    if count != NUM_CRON_FIELDS and not cron.strip().startswith("@"):
        fields = f"{NUMBERS.get(count, count)} field{'s' * (count != 1)}"
        raise ValueError(
            f"The cron line {cron!r} is not valid: it has {fields}: write five ({CRON_FIELDS}), such as '0 3 * * *'."
        )
    _check_timezone(timezone)
    try:
        schedule = CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(
            f"The cron line {cron!r} is not valid: {reason}. Write five fields ({CRON_FIELDS}), such as '0 3 * * *'."
        ) from None
    if not find_next_dates(cron, timezone, 1):
        raise ValueError(f"The cron line {cron!r}: there is no such day. Correct its day of month or its month.")
    return schedule


def find_next_dates(cron: str, timezone: str | None, count: int = 3) -> list[datetime]:
    """Find the next dates of a valid cron line, in its time zone; empty if it names a day that never comes."""
    dates = croniter(cron, datetime.now(ZoneInfo(timezone or "UTC")))
    try:
        return [dates.get_next(datetime) for _ in range(count)]
    except CroniterBadDateError:
        return []


def _check_timezone(timezone: str) -> None:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # ValueError: a path; OSError: a folder of the database
        raise ValueError(
            f"The time zone {timezone!r} is unknown. Write a name of the IANA database, such as 'Europe/Rome'."
        ) from None


def check_deployed_schedules(path: Path) -> None:
    """Check the schedules of prefect.yaml before anything starts: each one has a date, and `nightly` exists.

    Raises:
        ValueError: The file is not valid YAML, a schedule is not valid, or `reindex` has no schedule `nightly`. The
            message has the file and the deployment.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        schedules = {str(entry["name"]): list(entry.get("schedules") or []) for entry in content["deployments"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a list of deployments: {error}. Restore the file.") from error
    for name, entries in schedules.items():
        for entry in entries:
            try:
                if "cron" in entry:
                    parse_cron(str(entry["cron"]), str(entry.get("timezone") or "UTC"))
                elif "interval" in entry and not float(entry["interval"]) > 0:
                    raise ValueError(f"The interval {entry['interval']!r} is not above 0 seconds. Correct it.")
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, deployment {name}: {error}") from error
    slugs = [entry.get("slug") for entry in schedules.get(REINDEX, [])]
    if NIGHTLY not in slugs:
        raise ValueError(f"{path}: the deployment {REINDEX} has no schedule {NIGHTLY!r}. Restore the file.")


def enable_nightly(plan: str, cron: str | None = None, timezone: str = "UTC") -> None:
    """Enable the nightly schedule of the deployment `reindex`.

    Args:
        plan: Plan file, name of a shipped plan, or folder that `tern photos` has indexed.
        cron: Cron expression; None keeps the one of the schedule.
        timezone: Time zone of `cron`.

    Raises:
        FileNotFoundError: The plan does not exist. Nothing was changed.
        ValueError: The plan or the cron expression is not valid, or the deployment has no such schedule. Nothing was
            changed.
    """
    load_plan(plan)
    where = locate_plan(plan)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reindex/reindex")
        found = next((s for s in deployment.schedules if s.slug == NIGHTLY), None)
        if found is None:
            raise ValueError(f"The deployment reindex has no schedule {NIGHTLY!r}. Run `prefect deploy --all`.")
        when = found.schedule if cron is None else parse_cron(cron, timezone)
        client.update_deployment_schedule(
            deployment.id, found.id, active=True, schedule=when, parameters={"plan": where}
        )
