"""Prefect on this machine: server, deployments and worker as child processes that end together."""

import importlib.util
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from flows.server.environment import HOST, NIGHTLY_CRON, POOL, apply_environment, make_environment, prefect_command
from pipeline.plans import load_plan

START_TIMEOUT_SECONDS = 120.0  # the first start makes the database


def run_server_and_worker(port: int, nightly: str | None = None, cron: str | None = None) -> None:
    """Start server, deployments and worker; wait until Ctrl-C; then end them all.

    nightly  a plan to re-index by the schedule of `reindex`, which is switched on
    cron     when, in UTC; None: at 03:00

    Raises FileNotFoundError outside the repository, ImportError without Prefect, ValueError if the port is taken, one
    of the processes ends, `cron` is given without `nightly`, or either is wrong.
    """
    if cron and not nightly:
        raise ValueError(f"--cron {cron!r} says when --nightly re-indexes: give --nightly PLAN too.")
    if not Path("prefect.yaml").is_file():
        raise FileNotFoundError("no prefect.yaml in this folder: run `tern up` from the root of the repository.")
    _check(port)
    apply_environment(port)
    if nightly:  # what is wrong is refused now: not at three in the morning, nor when all has started
        load_plan(nightly)
        from flows.server.schedule import parse_cron  # lazy: Prefect reads its environment at import

        parse_cron(cron or NIGHTLY_CRON)
    env, children = make_environment(port), {}
    for number in (signal.SIGTERM, signal.SIGHUP):  # the finally below runs
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: sys.exit(0))
    # `tern up &` in a script: the shell has it ignore Ctrl-C, its children too, and the worker would have to be killed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A terminal sends Ctrl-C to all of a session; the finally below does too, and a worker kills itself at the second.
    own = {"env": env, "start_new_session": True}
    try:
        server = prefect_command("server", "start", "--host", HOST, "--port", str(port))
        children["server"] = subprocess.Popen(server, **own)
        wait_until_healthy(port, children["server"])
        worker = prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--name", "tern-up")
        children["worker"] = subprocess.Popen(worker, **own)  # it makes the pool
        from flows.server.deploy import deploy_all  # lazy: Prefect reads its environment at import

        for kept in deploy_all(env):
            print(f"still on  {kept}", flush=True)
        if nightly:
            from flows.server.schedule import enable_nightly  # lazy: Prefect reads its environment at import

            enable_nightly(nightly, cron or NIGHTLY_CRON)
            print(f"nightly  reindex of {nightly} at {cron or NIGHTLY_CRON} (cron, UTC)", flush=True)
        print(f"ready  http://{HOST}:{port}  then, in another terminal: tern run pipeline --plan demo", flush=True)
        while all(child.poll() is None for child in children.values()):
            time.sleep(1)
        name, code = next((name, c.returncode) for name, c in children.items() if c.returncode is not None)
        raise ValueError(f"the Prefect {name} ended with code {code}; its last messages stand above.")
    except KeyboardInterrupt:
        pass
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a second one would leave the children behind
            signal.signal(number, signal.SIG_IGN)
        for child in reversed(children.values()):  # the worker first, which tells the server of its end
            _end(child)


def _check(port: int) -> None:
    if importlib.util.find_spec("prefect") is None:
        raise ImportError("flows need the extra `flows`: pip install -e '.[flows]'")
    with socket.socket() as found:
        if found.connect_ex((HOST, port)) == 0:
            raise ValueError(f"port {port} is in use: stop what listens there, or give another with --port.")


def _end(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGINT)  # a worker started in the background ignores a first SIGTERM
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until_healthy(port: int, server: subprocess.Popen) -> None:
    """Return when the server answers. Raises ValueError if it ends or is not there in time."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ValueError(f"the Prefect server ended with code {server.returncode}; its last messages stand above.")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/api/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ValueError(f"the Prefect server on port {port} did not answer within {START_TIMEOUT_SECONDS:.0f} s.")
