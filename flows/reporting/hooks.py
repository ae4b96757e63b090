"""Run a user-defined command when a flow run fails, crashes or is cancelled."""

import json
import shlex
import subprocess
from typing import Any

from prefect.logging.loggers import flow_run_logger

from data.settings import read_settings

COMMAND = "TERN_ON_FAILURE"  # environment variable; its value is a command line
TIMEOUT_SECONDS = 60.0


def run_failure_command(flow: Any, flow_run: Any, state: Any) -> None:
    """Run the command of TERN_ON_FAILURE, if it is set, with a description of the run as JSON on its standard input.

    A command that fails, or that takes longer than `TIMEOUT_SECONDS`, is an error in the log and does not change the
    run. Prefect passes the arguments by keyword.

    Args:
        flow: The flow.
        flow_run: Its run.
        state: State in which the run ended.
    """
    words = shlex.split(read_settings().on_failure)
    if not words:
        return
    facts = {"flow": flow.name, "run": flow_run.name, "id": str(flow_run.id), "state": state.name}
    text = json.dumps({**facts, "message": state.message or ""})
    try:
        subprocess.run(words, input=text, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        flow_run_logger(flow_run, flow).error(
            "The command %s=%s failed for %s: %s", COMMAND, words[0], flow_run.name, error
        )


HOOKS = {
    "on_failure": [run_failure_command],
    "on_crashed": [run_failure_command],
    "on_cancellation": [run_failure_command],
}
