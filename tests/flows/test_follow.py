"""How `tern run` ends when its server or its user leaves it: it says what becomes of the run, and what to do."""

import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest

pytest.importorskip("prefect")
RUN = SimpleNamespace(id=UUID(int=7), name="reindex demo")
GONE = httpx.ConnectError("connection refused")


class Client:
    """A client whose deployment `there` can be run; then looking at the run meets `end`."""

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
    ("client", "told"),
    [
        (Client(GONE, start=GONE), r"No Prefect server answers at .*\. Run `tern up`"),
        (Client(GONE, start=RuntimeError("Failed to reach API")), "No Prefect server answers"),
        (Client(GONE), rf"The run reindex demo may still be running\. .*flow-run watch {RUN.id}"),
        (Client(httpx.ReadError("reset")), "stopped answering"),
        (Client(KeyboardInterrupt()), rf"the run continues; `prefect flow-run watch {RUN.id}` follows it"),
    ],
)
def test_a_server_that_is_gone_and_a_user_who_leaves_are_told_apart(client, told, monkeypatch):
    from flows.server import follow

    monkeypatch.setattr(follow, "get_client", lambda sync_client: nullcontext(client))
    said = []
    if isinstance(client.end, KeyboardInterrupt):
        assert follow.follow_run("reindex", "demo", (), (), said.append) == 130
        assert re.search(told, said[-1])
    else:
        with pytest.raises(ValueError, match=told):
            follow.follow_run("reindex", "demo", (), (), said.append)


@pytest.mark.parametrize(("state", "verdict"), [("Completed", 0), ("Failed", 1), ("Crashed", 1), ("Cancelled", 1)])
def test_the_verdict_of_the_run_is_that_of_the_command(state, verdict, monkeypatch):
    from prefect import states

    from flows.server import follow

    ended = SimpleNamespace(id=RUN.id, state=getattr(states, state)(message="so it went"))
    client = SimpleNamespace(read_flow_run=lambda number: ended)
    monkeypatch.setattr(follow, "_children", lambda client, number: [])
    monkeypatch.setattr(follow, "_progress", lambda client, ids, told, say: None)
    monkeypatch.setattr(follow.LogTail, "echo_new", lambda self, ids: 0)
    monkeypatch.setattr(follow.LogTail, "echo_remaining", lambda self, number, ids: None)
    said = []
    assert follow._watch(client, RUN.id, said.append) == verdict
    assert said == [f"state   {state}  so it went"]


class Logs:
    """A client whose lines arrive at given looks, in any order of their times; one may arrive between two pages."""

    def __init__(self, *arrivals: list[tuple[float, str]]):
        self.arrivals, self.lines = list(arrivals), []

    def read_logs(self, log_filter, limit, offset, sort):
        if self.arrivals:
            for seconds, message in self.arrivals.pop(0):
                at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
                about = {"message": message, "name": "n", "flow_run_id": RUN.id, "task_run_id": None}
                self.lines.append(SimpleNamespace(id=uuid4(), timestamp=at, **about))
        after = log_filter.timestamp and log_filter.timestamp.after_
        found = sorted((x for x in self.lines if not after or x.timestamp >= after), key=lambda x: x.timestamp)
        return found[offset : offset + limit]


def test_late_lines_are_told_once_and_the_last_are_waited_for(monkeypatch):
    from flows.server import follow

    monkeypatch.setattr(follow, "PAGE_LINES", 2)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    first = [(0, "a"), (10, "d"), (10, "e")]
    late = [[(5, "b")], [], [(9, "c"), (10, "f")], [], [], [(60, "g")], [], [(61, "h")], [(62, "Finished in state X")]]
    client, said = Logs(first, *late), []
    lines = follow.LogTail(client, said.append)
    assert lines.echo_new([RUN.id]) == 3, "b came between two pages, before what the first had: the next look finds it"
    lines.echo_remaining(RUN.id, [RUN.id])
    assert sorted(line[-1] for line in said) == list("abcdefgh"), "none lost, none twice"
    monkeypatch.setattr(follow, "END_OF_LOG_SECONDS", 0.05)
    follow.LogTail(Logs([(0, "a")]), said.append).echo_remaining(RUN.id, [RUN.id])
    assert said[-1] == "log     a", "a run that was killed says no last word"


def test_of_a_message_of_many_lines_the_first_is_told():
    from flows.server.follow import LogTail

    said = []
    assert LogTail(Logs([(0, "one"), (1, "it failed\nTraceback"), (2, "")]), said.append).echo_new([RUN.id]) == 3
    assert [text.split(maxsplit=1)[1:] for text in said] == [["one"], ["it failed ..."], []]


def test_a_server_elsewhere_is_followed_unless_a_port_of_this_machine_is_given(monkeypatch):
    from flows.server.environment import make_environment

    monkeypatch.setenv("PREFECT_API_URL", "http://10.0.0.7:4200/api")
    assert make_environment(None)["PREFECT_API_URL"] == "http://10.0.0.7:4200/api"
    assert make_environment(4300)["PREFECT_API_URL"] == "http://127.0.0.1:4300/api"
    monkeypatch.delenv("PREFECT_API_URL")
    assert make_environment(None)["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
