"""Where an index came from, read from the manifests: stores, model, vectors, version."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from data.io import digest, read_json
from data.manifest import read_store_manifest
from data.text import printable
from index.versions import list_versions, manifest_path, read_current
from index.versions import read_version_manifest as read_version

KINDS = ("store", "model", "vectors", "index")  # upstream first


@dataclass(frozen=True)
class Node:
    """Something that was made: its kind, its folder's name, what it is in a few words, and what it was made from."""

    kind: str
    name: str
    description: str
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """What was made, upstream first."""

    nodes: tuple[Node, ...]

    def to_text(self) -> str:
        """A line a thing: kind, name, what it is, and what it was made from."""
        wide = max((len(printable(node.name)) for node in self.nodes), default=0)
        lines = []
        for node in self.nodes:
            made = f"  <- {', '.join(map(printable, node.inputs))}" if node.inputs else ""
            lines.append(f"{node.kind:<8} {printable(node.name):<{wide}}  {node.description}{made}\n")
        return "".join(lines)

    def to_mermaid(self) -> str:
        """The same as a Mermaid flow chart, left to right."""
        place = {node.name: f"n{number}" for number, node in enumerate(self.nodes)}
        boxes = [f'  {place[n.name]}["{n.kind} {_plain(n.name)}<br/>{_plain(n.description)}"]\n' for n in self.nodes]
        arrows = [
            f"  {place[need]} --> {place[node.name]}\n" for node in self.nodes for need in node.inputs if need in place
        ]
        return "".join(["graph LR\n", *boxes, *arrows])

    def to_svg(self) -> str:
        """The same as a picture: a column a kind, upstream on the left."""
        column = {kind: [node for node in self.nodes if node.kind == kind] for kind in KINDS}
        place = {
            node.name: (20 + 320 * x, 20 + 90 * y) for x, k in enumerate(KINDS) for y, node in enumerate(column[k])
        }
        lines = [_arrow(place[n], place[node.name]) for node in self.nodes for n in node.inputs if n in place]
        boxes = [_box(*place[node.name], node) for node in self.nodes]
        high = 20 + 90 * max(map(len, column.values()))
        size = f'width="{320 * len(KINDS)}" height="{high}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{"".join(lines + boxes)}</svg>'


def _plain(text: str) -> str:
    """The text with what Mermaid would read as its own as its numbered entities: `#34;` is a quotation mark."""
    return "".join(f"#{ord(c)};" if c in '"<>&#;`' else c for c in printable(text))


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = (start[0] + 270, start[1] + 30), (end[0], end[1] + 30)
    return f'<path d="M{x1} {y1}C{x1 + 25} {y1} {x2 - 25} {y2} {x2} {y2}" fill="none" stroke="#888" stroke-width="2"/>'


def _box(x: int, y: int, node: Node) -> str:
    rows = ((20, 15, "#111", f"{node.kind} {node.name}"), (42, 12, "#555", node.description))
    texts = [
        f'<text x="{x + 10}" y="{y + dy}" font-size="{size}" fill="{c}">{escape(t)}</text>' for dy, size, c, t in rows
    ]
    return f'<rect x="{x}" y="{y}" width="270" height="60" rx="8" fill="#eef3fb" stroke="#2a6fdb"/>{"".join(texts)}'


def read_lineage(workspace: Path, include_unused: bool = False) -> Lineage:
    """What the published version was made from; with `every`, all that lies in the workspace, used or not.

    Only manifests are read. Raises FileNotFoundError if nothing is published (or, with `every`, nothing made).
    """
    workspace = Path(workspace)
    made = {node.name: node for node in _all(workspace)}
    if not include_unused:
        pointer = read_current(workspace / "index")
        if pointer is None:
            raise FileNotFoundError(f"no index is published in {workspace}: run `tern index`, or ask with --all.")
        made = _upstream(made, manifest_path(workspace / "index", pointer.version).stem)
    if not made:
        raise FileNotFoundError(f"nothing has been made in {workspace} yet: run `tern pipeline`.")
    return Lineage(tuple(sorted(made.values(), key=lambda node: (KINDS.index(node.kind), node.name))))


def _upstream(made: dict[str, Node], name: str) -> dict[str, Node]:
    found, waiting = {}, [name]
    while waiting:
        node = made.get(waiting.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            waiting += node.inputs
    return found


def _all(workspace: Path) -> list[Node]:
    stores, vectors = _stores(workspace / "stores"), _stores(workspace / "vectors")
    by_recipe = {digest(about["recipe"]): name for name, about in stores.items()}
    nodes = [Node("store", name, _of(about)) for name, about in stores.items()]
    nodes += [_model(path.parent, by_recipe) for path in sorted(workspace.glob("models/*/model.json"))]
    sides: dict[str, list[str]] = {}
    for name, about in vectors.items():
        model, side = about["recipe"]["model"], about["recipe"]["modality"]
        sides.setdefault(model, []).append(name)
        nodes.append(Node("vectors", name, f"{side}s, {_of(about)}", (model,)))
    return nodes + [_version(workspace / "index", number, sides) for number in list_versions(workspace / "index")]


def _stores(root: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: read_store_manifest(path.parent) for path in sorted(root.glob("*/manifest.json"))}


def _of(about: dict[str, Any]) -> str:
    rows, shards = sum(shard["rows"] for shard in about["shards"]), len(about["shards"])
    return f"{rows:,} rows in {shards:,} shard{'s' * (shards != 1)}, generation {about['generation']}"


def _model(folder: Path, stores: dict[str, str]) -> Node:
    card = read_json(folder / "model.json")
    # A store that was given lies elsewhere: its recipe's digest names it.
    needs = tuple(
        stores.get(card[key], f"{kind}-{card[key]}")
        for kind, key in (("regions", "region_recipe"), ("tokens", "token_recipe"))
    )
    origin = f"checkpoint {printable(card['checkpoint'])}" if "checkpoint" in card else f"epoch {card['epoch']}"
    return Node("model", folder.name, f"{origin}, {card['parameters'] / 1e6:.2f} M parameters", needs)


def _version(root: Path, number: int, vectors: dict[str, list[str]]) -> Node:
    manifest = read_version(root, number)
    rows = ", ".join(f"{about.counts.live:,} {kind}s" for kind, about in manifest.collections.items())
    model = manifest.provenance.get("model")
    served = read_current(root)
    mark = ", refused" if manifest.is_rejected else ", served" if served and served.version == number else ""
    return Node(
        "index", manifest_path(root, number).stem, f"{rows}{mark}", tuple(vectors.get(model, [model] if model else []))
    )
