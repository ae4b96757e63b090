"""How `tern run` ends when its server or its user leaves it: it says what becomes of the run, and what to do."""

import re
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID

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


def test_of_a_message_of_many_lines_the_first_is_told():
    from flows.follow import _new_lines

    lines = [SimpleNamespace(name="prefect.flow_runs", message=text) for text in ("one", "it failed\nTraceback", "")]
    pages, said = [lines, []], []
    assert _new_lines(SimpleNamespace(read_logs=lambda *_, **__: pages.pop(0)), [RUN.id], 0, said.append) == 3
    assert [text.split(maxsplit=1)[1:] for text in said] == [["one"], ["it failed ..."], []]


@pytest.mark.parametrize(
    ("client", "told"),
    [
        (Client(GONE, start=GONE), "no Prefect server answers at .*: start `tern up`"),
        (Client(GONE, start=RuntimeError("Failed to reach API")), "no Prefect server answers"),
        (Client(GONE), rf"follows run reindex demo, which may still be going: .*flow-run watch {RUN.id}"),
        (Client(httpx.ReadError("reset")), "answers no longer"),
        (Client(KeyboardInterrupt()), rf"the run goes on; `prefect flow-run watch {RUN.id}` follows it"),
    ],
)
def test_a_server_that_is_gone_and_a_user_who_leaves_are_told_apart(client, told, monkeypatch):
    from flows import follow

    monkeypatch.setattr(follow, "get_client", lambda sync_client: nullcontext(client))
    said = []
    if isinstance(client.end, KeyboardInterrupt):
        assert follow.follow("reindex", "demo", (), (), said.append) == 130
        assert re.search(told, said[-1])
    else:
        with pytest.raises(ValueError, match=told):
            follow.follow("reindex", "demo", (), (), said.append)
