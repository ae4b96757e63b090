"""Texts of files are neither markup nor invisible in Prefect's artifacts, in lineage drawings and in pages."""

from html import unescape
from types import SimpleNamespace

import pytest

from data.text import escape_markdown
from pipeline.lineage import Lineage, Node

EVIL = "![x](http://evil/a.png)<img src=x>&#8238;&lt;b&gt; **b** `c` | \x1b[2J\u202e\nFORGED"


def test_escape_markdown_leaves_neither_markup_nor_control_characters():
    shown = escape_markdown(EVIL)
    assert shown.isprintable()
    assert not set(shown) & set("<>[]`|*")
    assert unescape(shown).isprintable(), "no entity stands for a character that is not visible"
    assert unescape(shown).count("&lt;b&gt;") == 1
    assert escape_markdown("Tom & Jerry_2 R&D.jpg") == "Tom & Jerry_2 R&D.jpg"


def test_artifacts_escape_names_and_descriptions(monkeypatch):
    pytest.importorskip("prefect")
    from flows.reporting import artifacts
    from flows.tasks import shards

    made = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, **more: made.append((rows, more)))
    artifacts.create_table([{"name": EVIL, EVIL: 1}], "key", EVIL)
    ((rows, more),) = made
    texts = [more["description"], *rows[0], rows[0]["name"]]
    assert all(text.isprintable() and not set(text) & set("<>[]`|*") for text in texts)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda text, **more: made.append(text))
    artifacts.create_rejection_artifacts(ValueError(EVIL), EVIL)
    assert "<img" not in made[-1]
    assert "](http" not in made[-1]
    assert made[-1].replace("\n", "").isprintable()
    monkeypatch.setattr(shards, "create_progress_artifact", lambda percent, **more: made.append(more["description"]))
    with pytest.raises(AssertionError):  # the replaced function returns no id
        shards._create_progress("key", 1.0, EVIL)
    assert made[-1] == escape_markdown(EVIL)


def test_names_of_runs_are_visible(tmp_path):
    pytest.importorskip("prefect")
    from flows.parameters import dataset_name, get_dataset_name

    assert get_dataset_name(SimpleNamespace(dataset=SimpleNamespace(name=EVIL))).isprintable()
    assert dataset_name(str(tmp_path / f"{EVIL.replace('/', '')}.toml")).isprintable()


def test_lineage_drawings_are_visible_and_valid():
    lineage = Lineage((Node("store", EVIL, EVIL), Node("model", "m", "d", (EVIL,))))
    for line in [*lineage.to_text().split("\n"), *lineage.to_mermaid().split("\n")]:
        assert line.isprintable()
    assert lineage.to_text().count("\n") == 2
    assert lineage.to_svg().isprintable()
    assert "<img" not in lineage.to_svg()
