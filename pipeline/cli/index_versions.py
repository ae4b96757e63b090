"""`tern index ...`: versions of the index looked at, checked, named, served, collected, taken elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.text import printable

if TYPE_CHECKING:
    from index.versions import Manifest


PlanOption = Annotated[str, typer.Option("--plan", "-p", help="A plan file, or the name of a shipped plan.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change one setting of the plan: KEY=VALUE.")]
IndexOption = Annotated[
    Path | None, typer.Option("--index", help="An index's folder, in place of that of a plan's workspace.")
]
VersionArgument = Annotated[str, typer.Argument(help="A number or a tag; empty: the version that is served.")]
SHOWN = 5  # events


def root_of(plan: str, overrides: list[str] | None, index: Path | None) -> Path:
    """The index that a command is about. Raises FileNotFoundError if there is none."""
    root = index
    if root is None:
        from pipeline.plans.load import load_plan

        root = load_plan(plan, tuple(overrides or ())).workspace / "index"
    if not root.is_dir():
        raise FileNotFoundError(f"there is no index in {root}: run `tern index` first.")
    return root


def _number(root: Path, version: str) -> int | None:
    from index.versions import resolve_version

    return resolve_version(root, version) if version else None


def verify(
    version: VersionArgument = "", plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None
) -> None:
    """Compare every byte of a version with its manifest, and its parts with each other.

    [dim]Example: tern index verify --plan demo[/dim]
    """
    from index.quality import audit_version
    from index.search import Index
    from index.versions import iter_refs
    from index.versions import verify_version as check

    root = root_of(plan, overrides, index)
    manifest = check(root, _number(root, version))
    with Index.open(root, manifest.version) as opened:
        every = max(shard.rows for about in manifest.collections.values() for shard in about.shards)
        if faults := "; ".join(f"{what}: {fault}" for what, fault in audit_version(opened, every).items() if fault):
            raise ValueError(f"version {manifest.version}: {faults}. Roll back to a good version or build again.")
    objects = {ref.sha256: ref.bytes for ref in iter_refs(manifest)}
    typer.echo(f"version {manifest.version} is whole: {len(objects):,} objects, {sum(objects.values()):,} bytes")


def info(
    version: VersionArgument = "", plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None
) -> None:
    """The versions there are, what one of them holds, and what happened last.

    [dim]Examples: tern index info
    tern index info prod --plan flickr30k[/dim]
    """
    from index.versions import list_tags, list_versions, read_current, read_events, read_version_manifest

    root = root_of(plan, overrides, index)
    named = list_tags(root)
    served = (read_current(root) or {"version": 0})["version"]
    for number in list_versions(root):
        marks = ["served"] if number == served else []
        marks += [name for name, tagged in named.items() if tagged == number]
        try:
            marks += ["refused"] if read_version_manifest(root, number).is_rejected else []
        except (ValueError, FileNotFoundError) as error:
            marks.append(f"cannot be read: {printable(str(error))}")
        typer.echo(f"version {number:<4} {', '.join(marks)}".rstrip())
    if served or version:
        for name, value in _facts(read_version_manifest(root, _number(root, version))):
            typer.echo(f"{name:<12} {printable(value)}")
    for entry in read_events(root)[-SHOWN:]:
        what = f"version {entry['version']}" if entry.get("version") else ""
        typer.echo(f"{entry.get('utc', '')}  {entry.get('event', '')} {what}".rstrip())


def _facts(manifest: "Manifest") -> Iterator[tuple[str, str]]:
    from index.quality import format_check

    yield "version", f"{manifest.version}, after {manifest.parent or 'none'}, by faiss {manifest.faiss}"
    yield from ((("made from" if not i else ""), f"{k} = {v}") for i, (k, v) in enumerate(manifest.provenance.items()))
    for kind, about in manifest.collections.items():
        dead = f", {about.counts.deleted:,} dead" if about.counts.deleted else ""
        yield kind, f"{about.counts.live:,} rows x {about.dim}{dead}, generation {about.vector_space}"
        deltas = sum(shard.role == "delta" for shard in about.shards)
        yield "", f"{about.factory}, {len(about.shards)} shards" + (f", {deltas} of them deltas" if deltas else "")
        probed = f"{about.search.nprobe} of {about.nlist} lists probed, {about.search.rescore} rows rescored"
        yield "", f"{probed}, recall@{about.recall.get('at')} {about.recall.get('recall', 0):.3f}"
    if manifest.gate is not None:
        passed = "passed" if manifest.gate["passed"] else "refused"
        yield "gate", f"{passed} {manifest.gate.get('reason') or ''}".rstrip()
        checks = manifest.gate.get("checks")
        for name, check in checks.items() if isinstance(checks, dict) else ():
            if isinstance(check, dict) and check.get("passed") and "value" in check:
                yield "", f"{name} {format_check(check)}"


def publish(
    version: Annotated[str, typer.Argument(help="A number or a tag.")],
    override_gate_reason: Annotated[
        str,
        typer.Option(
            "--override-gate", metavar="REASON", help="Serve it though its gate refused it; the reason, which is kept."
        ),
    ] = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Serve a version that is there, after verifying it.

    [dim]Examples: tern index publish 12
    tern index publish 12 --override-gate "half of the pictures are gone on purpose"[/dim]
    """
    from index.building import override_gate
    from index.versions import rollback

    root = root_of(plan, overrides, index)
    number = _number(root, version)
    typer.echo(
        f"served  {override_gate(root, number, override_gate_reason) if override_gate_reason else rollback(root, number)}"
    )


def rollback(
    version: Annotated[str, typer.Argument(help="A number or a tag; empty: the one before the served one.")] = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Serve an earlier version again, after verifying it. [dim]Example: tern index rollback --plan flickr30k[/dim]"""
    from index.versions import read_version_manifest
    from index.versions import rollback as back

    root = root_of(plan, overrides, index)
    number = _number(root, version) or read_version_manifest(root).parent
    if number is None:
        raise ValueError(f"the version that is served in {root} has none before it: say which one to serve.")
    typer.echo(f"served  {back(root, number)}")


def tags(
    add: Annotated[str, typer.Option(help="A name to give.")] = "",
    remove: Annotated[str, typer.Option(help="A name to take away.")] = "",
    version: Annotated[str, typer.Option(help="The version to name; empty: the one that is served.")] = "",
    move: Annotated[bool, typer.Option("--move", help="Take the name from the version that has it.")] = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Names of versions: they are never collected, and can be asked for. Without options, list them.

    [dim]Examples: tern index tags
    tern index tags --add prod --version 12 --move
    tern index tags --remove prod[/dim]
    """
    from index.versions import add_tag, read_version_manifest, remove_tag
    from index.versions import list_tags as named

    root = root_of(plan, overrides, index)
    if add:
        add_tag(root, add, _number(root, version) or read_version_manifest(root).version, move)
    if remove:
        remove_tag(root, remove)
    for name, number in named(root).items():
        typer.echo(f"{name:<20} version {number}")


def gc(
    keep: Annotated[int, typer.Option(min=1, help="Versions that passed and stay, the served one among them.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Remove versions that nobody needs, and objects that no version names.

    The served version stays, and those that are tagged, open or refused since.
    [dim]Example: tern index gc --keep 3 --dry-run[/dim]
    """
    from index.versions import collect_garbage

    found = collect_garbage(root_of(plan, overrides, index), keep, dry_run)
    for number, why in sorted(found.kept.items()):
        typer.echo(f"version {number:<4} stays: {why}")
    gone = ", ".join(map(str, found.versions)) or "none"
    verb = "would go" if dry_run else "gone"
    typer.echo(f"{verb}: versions {gone}; {found.objects:,} objects, {found.bytes:,} bytes")


def export(
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    version: Annotated[str, typer.Option(help="A number or a tag; empty: the version that is served.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """A plain faiss file with 64-bit ids, Parquet that says what they are, and the vectors as .npy, of each collection.

    [dim]Example: tern index export exported --plan flickr30k --version prod[/dim]
    """
    from index.exchange import export_index as write

    root = root_of(plan, overrides, index)
    for path in write(root, output, _number(root, version), force):
        typer.echo(f"wrote  {path}")


def import_(
    folder: Annotated[Path, typer.Argument(help="A folder of .npy and Parquet.")],
    output: Annotated[Path, typer.Option(help="The index's folder, made if it is not there.")],
    normalize: Annotated[bool, typer.Option("--normalize", help="Bring vectors to unit length.")] = False,
    queries: Annotated[Path | None, typer.Option(help="A .npy of queries to measure recall with.")] = None,
    id_column: Annotated[
        str, typer.Option(help="Column that names an item; id, image_path, url or key if empty.")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="shards=8, factory=IVF{nlist},SQ8, gate.min_recall=0.8, ...")
    ] = None,
) -> None:
    """Build an index of vectors that clip-retrieval, autofaiss's readers or `tern index export` left.

    It is served if it passes the gate, as any other version.

    [dim]Example: tern index import embeddings --output runs/clip/index --set shards=8[/dim]
    """
    from index.config import GateConfig, IndexConfig
    from index.exchange import import_index

    values: dict[str, Any] = dict(setting.partition("=")[::2] for setting in settings or ())
    limits = {name.removeprefix("gate."): values.pop(name) for name in list(values) if name.startswith("gate.")}
    config, gate = IndexConfig(**values), GateConfig(**limits)
    typer.echo(f"index  {import_index(config, folder, output, normalize, queries, id_column, gate)}")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (verify, info, publish, rollback, tags, gc, export):
        app.command()(command)
    app.command("import")(import_)
