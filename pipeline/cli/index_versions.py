"""Commands of `tern index` on existing versions: `info`, `verify`, `publish`, `rollback`, `tags`, `gc`, `export`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import (
    ForceOption,
    IndexOption,
    PlanOption,
    SetOption,
    VersionArgument,
    VersionOption,
    resolve_index_root,
    resolve_version_option,
)
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from index.versions import Manifest

NUM_EVENTS = 5


def verify(
    version: VersionArgument = "", plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None
) -> None:
    """Compare every byte of a version with its manifest, and its files with each other.

    [dim]Example: tern index verify --plan demo[/dim]
    """
    root = resolve_index_root(plan, overrides, index)
    from index.quality import audit_version
    from index.search import Index
    from index.versions import iter_refs, verify_version

    manifest = verify_version(root, resolve_version_option(root, version))
    with Index.open(root, manifest.version) as opened:
        max_rows = max(shard.rows for collection in manifest.collections.values() for shard in collection.shards)
        results = audit_version(opened, max_rows)
    if problems := "; ".join(f"{check}: {problem}" for check, problem in results.items() if problem):
        raise ValueError(
            f"Version {manifest.version} is damaged: {problems}. "
            "Run `tern index rollback` to publish an earlier version, or `tern index` to build a new one."
        )
    objects = {ref.sha256: ref.bytes for ref in iter_refs(manifest)}
    echo(f"version {manifest.version} is intact: {len(objects):,} files, {sum(objects.values()):,} bytes")


def info(
    version: VersionArgument = "", plan: PlanOption = "demo", overrides: SetOption = None, index: IndexOption = None
) -> None:
    """List the versions, the contents of one of them, and the latest events.

    [dim]Examples: tern index info
    tern index info prod --plan flickr30k[/dim]
    """
    from index.versions import (
        list_tags,
        list_versions,
        read_current,
        read_events,
        read_pinned_version,
        read_version_manifest,
    )

    root = resolve_index_root(plan, overrides, index)
    versions_by_tag = list_tags(root)
    pointer, pinned = read_current(root), read_pinned_version(root)
    published = pointer.version if pointer else 0
    for number in list_versions(root):
        marks = ["published"] if number == published else []
        marks += ["pinned by a rollback"] if number == pinned else []
        marks += [tag for tag, tagged in versions_by_tag.items() if tagged == number]
        try:
            marks += ["rejected"] if read_version_manifest(root, number).is_rejected else []
        except (ValueError, FileNotFoundError) as error:
            marks.append(f"unreadable: {error}")
        echo(f"version {number:<4} {', '.join(marks)}".rstrip())
    if published or version:
        for name, value in _describe_version(read_version_manifest(root, resolve_version_option(root, version))):
            echo(f"{name:<12} {value}")
    for event in read_events(root)[-NUM_EVENTS:]:
        subject = f"version {event.version}" if event.version else ""
        echo(f"{event.utc}  {event.event} {subject}".rstrip())


def _describe_version(manifest: "Manifest") -> Iterator[tuple[str, str]]:
    yield "version", f"{manifest.version}, parent {manifest.parent or 'none'}, written by faiss {manifest.faiss}"
    yield from ((("made from" if not i else ""), f"{k} = {v}") for i, (k, v) in enumerate(manifest.provenance.items()))
    for kind, collection in manifest.collections.items():
        deleted = f", {collection.counts.deleted:,} deleted" if collection.counts.deleted else ""
        yield (
            kind,
            f"{collection.counts.live:,} rows x {collection.dim}{deleted}, vector space {collection.vector_space}",
        )
        deltas = sum(shard.role == "delta" for shard in collection.shards)
        of_which = f", of which {deltas} are delta shards" if deltas else ""
        yield "", f"{collection.factory}, {len(collection.shards)} shards{of_which}"
        settings = f"nprobe {collection.search.nprobe} of {collection.nlist} lists, rescore {collection.search.rescore}"
        settings += f", rerank {collection.search.rerank}" if collection.alignment is not None else ""
        yield "", f"{settings}{', exact search' if collection.is_exact else ''}"
        yield "", collection.recall.describe()
        if collection.calibration is not None:
            yield "", collection.calibration.describe()
    if manifest.gate is not None:
        result = "passed" if manifest.gate.passed else "rejected"
        yield "gate", f"{result} {manifest.gate.reason}".rstrip()
        for name, check in manifest.gate.checks.items():
            if check.passed and check.value is not None:
                yield "", f"{name} {check}"
        yield from (("not checked", line) for line in manifest.gate.describe_not_checked())


def publish(
    version: Annotated[str, typer.Argument(help="Version number or tag.", show_default=False)],
    override_reason: Annotated[
        str,
        typer.Option(
            "--override-gate",
            metavar="REASON",
            help="Reason to publish a version that its gate rejected; it is recorded in the manifest.",
        ),
    ] = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Verify an existing version and publish it. This ends a rollback.

    [dim]Examples: tern index publish 12
    tern index publish 12 --override-gate "half of the images were removed on purpose"[/dim]
    """
    from index.versions import resolve_version

    root = resolve_index_root(plan, overrides, index)
    number = resolve_version(root, version)
    if override_reason:
        from index.building import override_gate

        echo(f"published  {override_gate(root, number, override_reason)}")
    else:
        from index.versions import rollback as publish_version

        echo(f"published  {publish_version(root, number, pin=False)}")


def rollback(
    version: Annotated[
        str, typer.Argument(help="Version number or tag; by default, the parent of the published version.")
    ] = "",
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Verify an earlier version, publish it again, and pin it.

    The pinned version stays until somebody publishes another one: with `tern index`, `index update`, `index compact`,
    `index publish` or `pipeline`. The flow `reindex`, which runs every night, then publishes nothing.

    [dim]Example: tern index rollback --plan flickr30k[/dim]
    """
    from index.versions import read_pinned_version, read_version_manifest
    from index.versions import rollback as publish_version

    root = resolve_index_root(plan, overrides, index)
    number = resolve_version_option(root, version) or read_version_manifest(root).parent
    if number is None:
        raise ValueError(f"The published version in {root} has no parent. Pass the version to publish.")
    echo(f"published  {publish_version(root, number)}")
    if read_pinned_version(root) == number:
        echo(f"pinned     version {number} stays until you publish another one, such as with `tern index`")


def tags(
    add: Annotated[str, typer.Option(help="Tag to add.")] = "",
    remove: Annotated[str, typer.Option(help="Tag to remove.")] = "",
    version: VersionOption = "",
    move: Annotated[bool, typer.Option("--move", help="Move a tag that another version has.")] = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Add or remove a tag of a version, if requested, and list all tags.

    `tern index gc` never deletes a tagged version. A tag can be passed wherever a version number can.

    [dim]Examples: tern index tags
    tern index tags --add prod --version 12 --move
    tern index tags --remove prod[/dim]
    """
    from index.versions import add_tag, list_tags, read_version_manifest, remove_tag

    root = resolve_index_root(plan, overrides, index)
    if add:
        add_tag(root, add, resolve_version_option(root, version) or read_version_manifest(root).version, move)
    if remove:
        remove_tag(root, remove)
    for tag, number in list_tags(root).items():
        echo(f"{tag:<20} version {number}")


def gc(
    keep: Annotated[
        int, typer.Option(min=1, help="Number of accepted versions to keep, including the published one.")
    ] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted and delete nothing.")] = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Delete old versions and files that no version lists.

    The published version, tagged versions, versions that a process has open, and later rejected versions are kept.
    Files that are not the index's own are listed and kept.

    [dim]Example: tern index gc --keep 3 --dry-run[/dim]
    """
    from index.versions import collect_garbage

    root = resolve_index_root(plan, overrides, index)
    report = collect_garbage(root, keep, dry_run)
    for number, reason in sorted(report.kept.items()):
        echo(f"version {number:<4} kept: {reason}")
    deleted = ", ".join(map(str, report.versions)) or "none"
    verb = "would be deleted" if dry_run else "deleted"
    for folder in sorted({path.parent for path in report.staged}):
        count = sum(path.parent == folder for path in report.staged)
        echo(f"{verb}: unfinished build {folder.relative_to(root)}, {count:,} files")
    for path in report.foreign:
        echo(f"kept: {path.relative_to(root)} is not a file of the index")
    echo(f"{verb}: versions {deleted}; {report.objects:,} files, {report.bytes:,} bytes")


def export(
    output: Annotated[Path, typer.Argument(help="Folder to write to.", show_default=False)],
    version: VersionOption = "",
    force: ForceOption = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
    index: IndexOption = None,
) -> None:
    """Export the collections of a version to files of faiss, Parquet and NumPy.

    Each collection becomes a faiss file with 64-bit ids, a Parquet table of metadata, and a .npy file of vectors.

    [dim]Example: tern index export exported --plan flickr30k --version prod[/dim]
    """
    root = resolve_index_root(plan, overrides, index)
    from index.exchange import export_index

    for path in export_index(root, output, resolve_version_option(root, version), force):
        echo(f"wrote  {path}")


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the group `tern index`."""
    for command in (verify, info, publish, rollback, tags, gc, export):
        app.command()(command)
