"""The tools of `tern mcp`: an assistant finds what the searcher finds, and its mistakes are explained to it."""

import asyncio
import base64
import importlib
import io
import json
import os
import sys

import pytest
from PIL import Image as Picture

from index.search import HotReloader
from tests.helpers.light_starts import ROOT
from tests.helpers.small_plan import small_plan

mcp = pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from pipeline.service.mcp_server import MAX_K, MAX_SIDE, make_mcp_server  # noqa: E402 - needs the extra

pytestmark = pytest.mark.slow
TEXT = "two dogs"


@pytest.fixture(scope="module")
def call(searcher):
    """Call a tool over a session in memory; return its result."""
    server = make_mcp_server(HotReloader(searcher.index.root, searcher.with_version))

    def run(tool, **arguments):
        async def run_in_session():
            async with mcp.Client(server) as client:
                return await client.call_tool(tool, arguments)

        return asyncio.run(run_in_session())

    return run


def test_tools_find_what_the_searcher_finds(call, searcher, finished_pipeline):
    image, where = finished_pipeline.features.dataset.images[0], "split = 'train'"
    cases = [
        (call("search", text=TEXT, k=4), searcher.search_text(TEXT, 4)),
        (call("search", text=TEXT, k=4, offset=2, where=where), searcher.search_text(TEXT, 6, where)[2:]),
        (call("similar", image_id=image.id, k=4), searcher.search_similar(image.id, 4)),
    ]
    for result, expected in cases:
        found = result.structured_content["hits"]
        assert not result.is_error
        assert [hit["image_id"] for hit in found] == [hit.id for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
        assert [tuple(hit["captions"]) for hit in found] == [hit.captions for hit in expected]
        assert json.loads(result.content[0].text) == result.structured_content, "for clients without structured content"


def test_image_is_a_jpeg_of_at_most_the_requested_size(call, finished_pipeline):
    image = finished_pipeline.features.dataset.images[0]
    for side in (64, MAX_SIDE):
        (content,) = call("get_image", image_id=image.id, max_side=side).content
        picture = Picture.open(io.BytesIO(base64.b64decode(content.data)))
        assert (content.mime_type, picture.format, max(picture.size) <= side) == ("image/jpeg", "JPEG", True)
        assert max(picture.size) == min(side, max(Picture.open(image.path).size))


def test_collection_is_described(call, finished_pipeline):
    dataset = finished_pipeline.features.dataset
    found = call("describe_collection").structured_content
    assert found["counts"] == {"image": len(dataset.images), "caption": len(dataset.captions)}
    (split,) = (column for column in found["columns"] if column["name"] == "split")
    assert set(split["values"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("search", {"text": " "}, "The query has 0 characters"),
        ("search", {"text": "x" * 2_001}, "at most 2000 characters"),
        ("search", {}, "Field required"),
        ("search", {"text": "a dog", "k": 0}, "greater than or equal to 1"),
        ("search", {"text": "a dog", "k": MAX_K + 1}, "less than or equal to 50"),
        ("search", {"text": "a dog", "offset": -1}, "greater than or equal to 0"),
        ("search", {"text": "a dog", "where": "spl = 1"}, "spl"),
        ("similar", {"image_id": "no.jpg"}, "no.jpg"),
        ("get_image", {"image_id": "../../etc/passwd"}, "The collection has no image '../../etc/passwd'"),
        ("get_image", {"image_id": "no.jpg", "max_side": 100_000}, "less than or equal to 1536"),
        ("delete", {"image_id": "no.jpg"}, "delete"),
    ],
)
def test_mistake_of_an_assistant_is_explained(call, tool, arguments, message):
    try:
        result = call(tool, **arguments)
        assert result.is_error
        text = result.content[0].text
    except mcp.MCPError as error:
        text = str(error)
    assert message in text
    assert "Traceback" not in text


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.service.mcp_server")
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    with pytest.raises(ImportError, match=r"`tern mcp` needs the extra `mcp`\. Run `python -m pip install"):
        importlib.import_module("pipeline.service.mcp_server")


def test_command_speaks_nothing_but_the_protocol(finished_pipeline, tmp_path):
    plan = small_plan(finished_pipeline.plan.workspace.parent)
    command = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "pipeline.cli", "mcp", "--plan", str(plan)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # by default, the client passes few variables on
    )

    async def list_and_search():
        async with mcp.Client(mcp.stdio_client(command)) as client:
            tools = await client.list_tools()
            return tools.tools, await client.call_tool("search", {"text": TEXT, "k": 2})

    tools, result = asyncio.run(list_and_search())
    assert {tool.name for tool in tools} == {"describe_collection", "search", "similar", "get_image"}
    for tool in tools:
        assert tool.annotations.read_only_hint
        assert all(field.get("description") for field in tool.input_schema["properties"].values())
    assert len(result.structured_content["hits"]) == 2
