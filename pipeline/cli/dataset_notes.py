"""What a command prints about the dataset after the extraction: invalid records, and what their numbers mean."""

from typing import TYPE_CHECKING

from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.runs import PipelineRunner
    from pipeline.stages import Features

MAX_INVALID_PRINTED = 20


def print_dataset_notes(runner: "PipelineRunner", features: "Features") -> None:
    """Print the notes on a dataset and its invalid records, and write all of the records to the workspace."""
    from pipeline.plans.notes import describe_extractor
    from pipeline.runs import (
        count_truncated_captions,
        count_unknown_captions,
        describe_splits,
        write_invalid_records,
    )

    records = features.invalid_records
    for note in features.input_dataset.notes:
        echo(f"note       {note}", color="yellow", err=True)
    for record in records[:MAX_INVALID_PRINTED]:
        echo(f"invalid    {record.name}: {record.reason}", color="yellow", err=True)
    print_notes([*describe_splits(features.input_dataset), *describe_extractor(runner.plan)])
    path = write_invalid_records(features, runner.workspace)
    if records:
        hidden = len(records) - MAX_INVALID_PRINTED
        more = f"; {hidden:,} are not shown" if hidden > 0 else ""
        echo(f"invalid    {len(records):,} in total{more}; {path} lists all of them", color="yellow", err=True)
    if truncated := count_truncated_captions(features):
        count, limit = len(features.input_dataset.captions), runner.plan.text.max_tokens
        echo(f"truncated  {truncated:,} of {count:,} captions, to {limit} tokens", color="yellow", err=True)
    if unknown := count_unknown_captions(features):
        count = len(features.input_dataset.captions)
        message = f"{unknown:,} of {count:,} captions: the tokenizer knows no part of them, so they are all alike"
        echo(f"unknown    {message}", color="yellow", err=True)


def print_notes(notes: list[str]) -> None:
    """Print notes on standard error, one per line."""
    for note in notes:
        echo(f"note       {note}", color="yellow", err=True)
