"""Lineage of an index: the stores, model and vectors that each version was made from, read from their manifests alone.

Used by `tern lineage` and by the artifacts of a published version.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from data.io import digest
from data.manifest import StoreManifest, read_store_manifest
from data.text import printable
from index.versions import list_versions, manifest_path, read_current, read_version_manifest
from pipeline.workspace import DEFAULT_PLAN_NOTE
from tern.card import PACKAGE_CONFIG, read_model_card

KINDS = ("store", "model", "vectors", "index")  # upstream first
COLUMN_WIDTH, ROW_HEIGHT, MARGIN = 320, 90, 20  # pixels of the drawing
BOX_WIDTH, BOX_HEIGHT = 270, 60


@dataclass(frozen=True)
class Node:
    """An output in the workspace.

    Attributes:
        kind: one of `KINDS`
        name: name of its folder, or of the manifest of an index version
        inputs: names of the nodes it was made from; they may be outside of the workspace
    """

    kind: str
    name: str
    description: str
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """Outputs in a workspace with their inputs, upstream first."""

    nodes: tuple[Node, ...]

    def to_text(self) -> str:
        """Format as text: one line per node with kind, name, description and inputs."""
        width = max((len(printable(node.name)) for node in self.nodes), default=0)
        lines = []
        for node in self.nodes:
            inputs = f"  <- {', '.join(map(printable, node.inputs))}" if node.inputs else ""
            lines.append(f"{node.kind:<8} {printable(node.name):<{width}}  {printable(node.description)}{inputs}\n")
        return "".join(lines)

    def to_mermaid(self) -> str:
        """Format as a Mermaid flow chart from left to right."""
        node_ids = {node.name: f"n{number}" for number, node in enumerate(self.nodes)}
        boxes = [
            f'  {node_ids[node.name]}["{node.kind} {_escape_mermaid(node.name)}'
            f'<br/>{_escape_mermaid(node.description)}"]\n'
            for node in self.nodes
        ]
        arrows = [
            f"  {node_ids[name]} --> {node_ids[node.name]}\n"
            for node in self.nodes
            for name in node.inputs
            if name in node_ids
        ]
        return "".join(["graph LR\n", *boxes, *arrows])

    def to_svg(self) -> str:
        """Draw as an SVG image with one column per kind, upstream on the left."""
        columns = {kind: [node for node in self.nodes if node.kind == kind] for kind in KINDS}
        corners = {
            node.name: (MARGIN + COLUMN_WIDTH * x, MARGIN + ROW_HEIGHT * y)
            for x, column in enumerate(columns.values())
            for y, node in enumerate(column)
        }
        arrows = [
            _draw_arrow(corners[name], corners[node.name])
            for node in self.nodes
            for name in node.inputs
            if name in corners
        ]
        boxes = [_draw_box(*corners[node.name], node) for node in self.nodes]
        height = MARGIN + ROW_HEIGHT * max(map(len, columns.values()))
        size = f'width="{COLUMN_WIDTH * len(KINDS)}" height="{height}"'
        content = "".join(arrows + boxes)
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{content}</svg>'


def _escape_mermaid(text: str) -> str:
    """Replace the characters that Mermaid interprets by numeric entities: `#34;` is a quotation mark."""
    return "".join(f"#{ord(c)};" if c in '"<>&#;`' else c for c in printable(text))


def _draw_arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Draw a curve from the right side of one box to the left side of another, given their corners."""
    (x1, y1), (x2, y2) = (start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT // 2), (end[0], end[1] + BOX_HEIGHT // 2)
    return f'<path d="M{x1} {y1}C{x1 + 25} {y1} {x2 - 25} {y2} {x2} {y2}" fill="none" stroke="#888" stroke-width="2"/>'


def _draw_box(x: int, y: int, node: Node) -> str:
    lines = ((20, 15, "#111", f"{node.kind} {node.name}"), (42, 12, "#555", node.description))
    texts = [
        f'<text x="{x + 10}" y="{y + dy}" font-size="{size}" fill="{color}">{escape(printable(text))}</text>'
        for dy, size, color, text in lines
    ]
    box = f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="#eef3fb" stroke="#2a6fdb"/>'
    return box + "".join(texts)


def read_lineage(workspace: Path, include_unused: bool = False) -> Lineage:
    """Read what the published version was made from.

    Args:
        workspace: Folder of the workspace.
        include_unused: Whether to return everything in the workspace, not only what the published version depends on.

    Raises:
        FileNotFoundError: No version is published or, with `include_unused`, the workspace is empty.
    """
    workspace = Path(workspace)
    nodes = {node.name: node for node in _list_nodes(workspace)}
    if not include_unused:
        pointer = read_current(workspace / "index")
        if pointer is None:
            raise FileNotFoundError(
                f"No index is published in {workspace}. Run `tern index --plan PLAN`, or pass --all. "
                f"{DEFAULT_PLAN_NOTE}"
            )
        nodes = _select_upstream(nodes, manifest_path(workspace / "index", pointer.version).stem)
    if not nodes:
        raise FileNotFoundError(
            f"The workspace {workspace} is empty. Run `tern pipeline --plan PLAN`. {DEFAULT_PLAN_NOTE}"
        )
    return Lineage(tuple(sorted(nodes.values(), key=lambda node: (KINDS.index(node.kind), node.name))))


def _select_upstream(nodes: dict[str, Node], name: str) -> dict[str, Node]:
    """Select a node and everything that it depends on."""
    selected: dict[str, Node] = {}
    names = [name]
    while names:
        node = nodes.get(names.pop())
        if node is not None and node.name not in selected:
            selected[node.name] = node
            names += node.inputs
    return selected


def _list_nodes(workspace: Path) -> list[Node]:
    stores, vectors = _read_manifests(workspace / "stores"), _read_manifests(workspace / "vectors")
    stores_by_recipe = {digest(manifest.recipe): name for name, manifest in stores.items()}
    nodes = [Node("store", name, _describe_rows(manifest)) for name, manifest in stores.items()]
    nodes += [_make_model_node(path.parent, stores_by_recipe) for path in sorted(workspace.glob("models/*/model.json"))]
    vectors_by_model: dict[str, list[str]] = {}
    for name, manifest in vectors.items():
        model, modality = manifest.recipe["model"], manifest.recipe["modality"]
        vectors_by_model.setdefault(model, []).append(name)
        what = f"{modality}s" if manifest.kind == "vectors" else f"row vectors of {modality}s"
        nodes.append(Node("vectors", name, f"{what}, {_describe_rows(manifest)}", (model,)))
    root = workspace / "index"
    return nodes + [_make_version_node(root, number, vectors_by_model) for number in list_versions(root)]


def _read_manifests(root: Path) -> dict[str, StoreManifest]:
    """Read the manifests of the stores in a folder, by the names of the stores."""
    return {path.parent.name: read_store_manifest(path.parent) for path in sorted(root.glob("*/manifest.json"))}


def _describe_rows(manifest: StoreManifest) -> str:
    rows, shards = sum(shard.rows for shard in manifest.shards), len(manifest.shards)
    if not manifest.shards:
        return "empty"
    return f"{rows:,} rows in {shards:,} shard{'s' * (shards != 1)}, generation {manifest.generation}"


def _make_model_node(folder: Path, stores_by_recipe: dict[str, str]) -> Node:
    card = read_model_card(folder)
    # The plan may name a store outside of the workspace: the digest of its recipe names it then.
    inputs = tuple(
        stores_by_recipe.get(recipe, f"{kind}-{recipe}")
        for kind, recipe in (("regions", card.region_recipe), ("tokens", card.token_recipe))
    )
    source = "package" if (folder / PACKAGE_CONFIG).is_file() else "checkpoint"
    origin = f"epoch {card.epoch}" if card.checkpoint is None else f"{source} {printable(card.checkpoint)}"
    return Node("model", folder.name, f"{origin}, {card.num_parameters / 1e6:.2f} M parameters", inputs)


def _make_version_node(root: Path, number: int, vectors_by_model: dict[str, list[str]]) -> Node:
    manifest = read_version_manifest(root, number)
    rows = ", ".join(f"{collection.counts.live:,} {kind}s" for kind, collection in manifest.collections.items())
    model = manifest.provenance.get("model")
    pointer = read_current(root)
    is_published = pointer is not None and pointer.version == number
    state = ", rejected" if manifest.is_rejected else ", published" if is_published else ""
    inputs = vectors_by_model.get(model, [model]) if model else []
    return Node("index", manifest_path(root, number).stem, f"{rows}{state}", tuple(inputs))
