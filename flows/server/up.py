"""`tern up`: a Prefect server, the deployments and a worker, as child processes that end together."""

import importlib.util
import platform
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


def run_server_and_worker(port: int | None, nightly: str | None = None, cron: str | None = None) -> None:
    """Start the server, the deployments and a worker; wait until Ctrl-C; then end them.

    Args:
        port: TCP port of the server; None starts none, and uses the one of PREFECT_API_URL.
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
        if port is not None:
            server = prefect_command("server", "start", "--host", HOST, "--port", str(port))
            children["server"] = subprocess.Popen(server, env=env, start_new_session=True)
        wait_until_healthy(env["PREFECT_API_URL"], children.get("server"))
        started = datetime.now(UTC)
        name = WORKER if port is not None else f"{WORKER}-{platform.node()}"
        worker = prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--name", name)
        children["worker"] = subprocess.Popen(worker, env=env, start_new_session=True)  # it creates the pool
        from flows.server.deploy import deploy_all  # lazy: Prefect reads its environment at import

        for kept in deploy_all(env):
            echo(f"still on  {kept}")
        if nightly is not None:
            schedule.enable_nightly(nightly, cron)
            dates = ", ".join(f"{date:%Y-%m-%d %H:%M}" for date in schedule.find_next_dates(cron, "UTC"))
            echo(f"nightly  reindex of {nightly} at {cron} (cron, UTC)", f"first    {dates}")
        address = env["PREFECT_API_URL"].removesuffix("/api")
        echo(f"ready  {address}  then, in another terminal: tern run pipeline --plan demo")
        from flows.server.stale_runs import StaleRunSweeper  # lazy: Prefect reads its environment at import

        sweeper = StaleRunSweeper(started, name)
        while all(child.poll() is None for child in children.values()):
            time.sleep(1)
            sweeper.sweep_if_due(echo)
        process, code = next((key, c.returncode) for key, c in children.items() if c.returncode is not None)
        raise ValueError(f"The Prefect {process} ended with code {code}. Read its last messages above.")
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


def _check(port: int | None) -> None:
    if importlib.util.find_spec("prefect") is None:
        raise ImportError("The flows need the extra `flows`. Run `pip install -e '.[flows]'`.")
    if port is not None:
        check_port_is_free(HOST, port)


def _end(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGINT)  # a worker in the background ignores the first SIGTERM
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until_healthy(api_url: str, server: subprocess.Popen | None) -> None:
    """Wait until the server answers. Raises ValueError if it ends, or does not answer in time.

    Args:
        api_url: Address of the API of the server.
        server: Process of the server; None if this command did not start it.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if server is not None and server.poll() is not None:
            raise ValueError(f"The Prefect server ended with code {server.returncode}. Read its last messages above.")
        try:
            with urllib.request.urlopen(f"{api_url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    advice = "Start it, or correct PREFECT_API_URL" if server is None else "Read its messages above"
    raise ValueError(f"The Prefect server at {api_url} did not answer within {START_TIMEOUT_SECONDS:.0f} s. {advice}.")
