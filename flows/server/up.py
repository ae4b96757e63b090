"""`tern up`: a Prefect server, the deployments and a worker, as child processes that end together."""

import importlib.util
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from flows.server.environment import (
    HOST,
    NIGHTLY_CRON,
    POOL,
    WORKER,
    apply_environment,
    make_environment,
    prefect_command,
)
from pipeline.cli import check_port_is_free, echo
from pipeline.plans import load_plan

START_TIMEOUT_SECONDS = 120.0  # the first start creates the database


def run_server_and_worker(port: int, nightly: str | None = None, cron: str | None = None) -> None:
    """Start the server, the deployments and a worker; wait until Ctrl-C; then end them.

    Args:
        port: TCP port of the server.
        nightly: Plan to re-index every night; enables the schedule of `reindex`.
        cron: Cron expression of the nightly run, in UTC; None means 03:00.

    Raises:
        FileNotFoundError: The current folder has no prefect.yaml, or the plan does not exist.
        ImportError: Prefect is not installed.
        ValueError: The port is in use, a process ended, `cron` is set without `nightly`, or one of them is not valid.
    """
    if cron is not None and nightly is None:
        raise ValueError(f"--cron {cron!r} is the time of --nightly. Pass --nightly PLAN too.")
    if not Path("prefect.yaml").is_file():
        raise FileNotFoundError("This folder has no prefect.yaml. Run `tern up` in the root folder of the repository.")
    _check(port)
    apply_environment(port)  # before any import of Prefect, which reads its environment once
    # Errors are reported now, not at night and not after everything has started.
    from flows.server import schedule  # lazy: as above

    schedule.check_deployed_schedules(Path("prefect.yaml"))
    cron = NIGHTLY_CRON if cron is None else cron
    if nightly is not None:
        load_plan(nightly)
        schedule.parse_cron(cron)
    env, children = make_environment(port), {}
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the finally clause below runs
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: sys.exit(0))
    # A shell lets `tern up &` of a script ignore SIGINT. Its children would inherit that, and the worker could only be
    # killed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Children run in sessions of their own: a terminal sends Ctrl-C to its whole session, the finally clause sends a
    # signal too, and a worker kills itself at the second signal.
    try:
        server = prefect_command("server", "start", "--host", HOST, "--port", str(port))
        children["server"] = subprocess.Popen(server, env=env, start_new_session=True)
        wait_until_healthy(port, children["server"])
        started = datetime.now(UTC)
        worker = prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--name", WORKER)
        children["worker"] = subprocess.Popen(worker, env=env, start_new_session=True)  # it creates the pool
        from flows.server.deploy import deploy_all  # lazy: Prefect reads its environment at import

        for kept in deploy_all(env):
            echo(f"still on  {kept}")
        if nightly is not None:
            schedule.enable_nightly(nightly, cron)
            dates = ", ".join(f"{date:%Y-%m-%d %H:%M}" for date in schedule.find_next_dates(cron, "UTC"))
            echo(f"nightly  reindex of {nightly} at {cron} (cron, UTC)", f"first    {dates}")
        echo(f"ready  http://{HOST}:{port}  then, in another terminal: tern run pipeline --plan demo")
        from flows.server.stale_runs import StaleRunSweeper  # lazy: Prefect reads its environment at import

        sweeper = StaleRunSweeper(started)
        while all(child.poll() is None for child in children.values()):
            time.sleep(1)
            sweeper.sweep_if_due(echo)
        name, code = next((name, c.returncode) for name, c in children.items() if c.returncode is not None)
        raise ValueError(f"The Prefect {name} ended with code {code}. Read its last messages above.")
    except KeyboardInterrupt:
        pass
    finally:
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGHUP,
        ):  # a second signal would leave the children running
            signal.signal(number, signal.SIG_IGN)
        for child in reversed(children.values()):  # the worker first, because it reports its end to the server
            _end(child)


def _check(port: int) -> None:
    if importlib.util.find_spec("prefect") is None:
        raise ImportError("The flows need the extra `flows`. Run `pip install -e '.[flows]'`.")
    check_port_is_free(HOST, port)


def _end(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGINT)  # a worker in the background ignores the first SIGTERM
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until_healthy(port: int, server: subprocess.Popen) -> None:
    """Wait until the server answers. Raises ValueError if it ends, or does not answer in time."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ValueError(f"The Prefect server ended with code {server.returncode}. Read its last messages above.")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/api/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ValueError(
        f"The Prefect server on port {port} did not answer within {START_TIMEOUT_SECONDS:.0f} s. "
        "Read its messages above."
    )
