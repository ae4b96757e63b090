"""Messages, exit status and log lines of `tern run` when the server stops, the user leaves or the run ends."""

import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest

pytest.importorskip("prefect")
RUN = SimpleNamespace(id=UUID(int=7), name="reindex demo")
CONNECTION_ERROR = httpx.ConnectError("connection refused")


class Client:
    """A client that creates a run; reading the deployment raises `start`, and reading the run raises `end`."""

    def __init__(self, end: BaseException, start: BaseException | None = None):
        self.end, self.start = end, start

    def read_deployment_by_name(self, name):
        if self.start:
            raise self.start
        return SimpleNamespace(id=1, parameter_openapi_schema={})

    def create_flow_run_from_deployment(self, number, parameters):
        return RUN

    def read_flow_run(self, number):
        raise self.end


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (Client(CONNECTION_ERROR, start=CONNECTION_ERROR), r"No Prefect server answers at .*\. Run `tern up`"),
        (Client(CONNECTION_ERROR, start=RuntimeError("Failed to reach API")), "No Prefect server answers"),
        (Client(CONNECTION_ERROR), rf"The run reindex demo may still be running\. .*flow-run watch {RUN.id}"),
        (Client(httpx.ReadError("reset")), "stopped answering"),
        (Client(KeyboardInterrupt()), rf"the run continues; `prefect flow-run watch {RUN.id}` follows it"),
    ],
)
def test_follow_run_distinguishes_a_stopped_server_from_an_interrupt(client, message, monkeypatch):
    from flows.server import follow

    monkeypatch.setattr(follow, "get_client", lambda sync_client: nullcontext(client))
    lines = []
    if isinstance(client.end, KeyboardInterrupt):
        assert follow.follow_run("reindex", "demo", (), (), lines.append) == 130
        assert re.search(message, lines[-1])
    else:
        with pytest.raises(ValueError, match=message):
            follow.follow_run("reindex", "demo", (), (), lines.append)


@pytest.mark.parametrize(("state", "status"), [("Completed", 0), ("Failed", 1), ("Crashed", 1), ("Cancelled", 1)])
def test_exit_status_follows_the_state_of_the_run(state, status, monkeypatch):
    from prefect import states

    from flows.server import follow

    run = SimpleNamespace(id=RUN.id, state=getattr(states, state)(message="so it went"))
    client = SimpleNamespace(read_flow_run=lambda number: run)
    monkeypatch.setattr(follow, "_children", lambda client, number: [])
    monkeypatch.setattr(follow, "_progress", lambda client, ids, positions, echo: None)
    monkeypatch.setattr(follow.LogTail, "echo_new", lambda self, ids: 0)
    monkeypatch.setattr(follow.LogTail, "echo_remaining", lambda self, number, ids: None)
    lines = []
    assert follow._watch(client, RUN.id, lines.append) == status
    assert lines == [f"state   {state}  so it went"]


class Logs:
    """A client whose log lines arrive with given calls, in any order of their times."""

    def __init__(self, *arrivals: list[tuple[float, str]]):
        self.arrivals, self.lines = list(arrivals), []

    def read_logs(self, log_filter, limit, offset, sort):
        if self.arrivals:
            for seconds, message in self.arrivals.pop(0):
                timestamp = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
                fields = {"message": message, "name": "n", "flow_run_id": RUN.id, "task_run_id": None}
                self.lines.append(SimpleNamespace(id=uuid4(), timestamp=timestamp, **fields))
        after = log_filter.timestamp and log_filter.timestamp.after_
        lines = sorted((x for x in self.lines if not after or x.timestamp >= after), key=lambda x: x.timestamp)
        return lines[offset : offset + limit]


def test_log_tail_prints_late_lines_once_and_waits_for_the_last_ones(monkeypatch):
    from flows.server import follow

    monkeypatch.setattr(follow, "PAGE_LINES", 2)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    first = [(0, "a"), (10, "d"), (10, "e")]
    late = [[(5, "b")], [], [(9, "c"), (10, "f")], [], [], [(60, "g")], [], [(61, "h")], [(62, "Finished in state X")]]
    client, printed = Logs(first, *late), []
    tail = follow.LogTail(client, printed.append)
    assert tail.echo_new([RUN.id]) == 3, "b arrived between two pages with an earlier time: the next poll finds it"
    tail.echo_remaining(RUN.id, [RUN.id])
    assert sorted(line[-1] for line in printed) == list("abcdefgh"), "no line is lost, none is printed twice"
    monkeypatch.setattr(follow, "END_OF_LOG_SECONDS", 0.05)
    follow.LogTail(Logs([(0, "a")]), printed.append).echo_remaining(RUN.id, [RUN.id])
    assert printed[-1] == "log     a", "the log of a killed run has no last line"


def test_log_tail_prints_the_first_line_of_a_message():
    from flows.server.follow import LogTail

    printed = []
    assert LogTail(Logs([(0, "one"), (1, "it failed\nTraceback"), (2, "")]), printed.append).echo_new([RUN.id]) == 3
    assert [text.split(maxsplit=1)[1:] for text in printed] == [["one"], ["it failed ..."], []]


def test_make_environment_keeps_a_remote_server_unless_a_port_is_passed(monkeypatch):
    from flows.server.environment import make_environment

    monkeypatch.setenv("PREFECT_API_URL", "http://10.0.0.7:4200/api")
    assert make_environment(None)["PREFECT_API_URL"] == "http://10.0.0.7:4200/api"
    assert make_environment(4300)["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
    monkeypatch.delenv("PREFECT_API_URL")
    assert make_environment(None)["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"


def test_make_environment_restricts_web_pages_and_passes_the_password_on(monkeypatch):
    from flows.server.environment import make_environment

    names = ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_API_AUTH_STRING")
    for name in (*names, "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    assert make_environment(4300)[names[0]] == "http://127.0.0.1:4300,http://localhost:4300"
    assert not set(names) & set(make_environment(None)), "no server is started"
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:secret")
    assert make_environment(4300)[names[1]] == "admin:secret"
    for name in names:
        monkeypatch.setenv(name, "as the user says")
    assert [make_environment(4300)[name] for name in names] == ["as the user says"] * 2


@pytest.mark.parametrize("form", ["name", "file", "folder"])
def test_run_gets_a_plan_that_holds_in_the_folder_of_the_worker(form, tmp_path, monkeypatch):
    from flows.server import follow
    from pipeline.photo_folders import PhotoFolder, write_photo_plan

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    (tmp_path / "photos").mkdir()
    folder = PhotoFolder(tmp_path / "photos", tmp_path / "workspace")
    write_photo_plan(folder)
    monkeypatch.chdir(folder.plan_file.parent)
    plan = {"name": "demo", "file": folder.plan_file.name, "folder": "../../../photos"}[form]
    values = []
    monkeypatch.setattr(follow, "_start", lambda client, name, parameters: values.append(parameters) or RUN)
    monkeypatch.setattr(follow, "_watch", lambda client, run_id, echo: 0)
    monkeypatch.setattr(follow, "get_client", lambda sync_client: nullcontext())
    assert follow.follow_run("reindex", plan, (), (), lambda line: None) == 0
    assert values[0]["plan"] == ("demo" if form == "name" else str(folder.plan_file))
