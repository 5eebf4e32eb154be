"""`tunesmith db`: what each of its commands takes. The work is in `cli_db.py`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli_options import Json

__all__ = ["db_app"]


class Exchange(Enum):
    """How records leave the tuning store, and come back."""

    tunesmith = "tunesmith"
    metaschedule = "metaschedule"


db_app = typer.Typer(
    help="Look into the tuning store, and move records in and out of it.", no_args_is_help=True
)
Store = Annotated[
    str | None,
    typer.Option(
        "--db", metavar="URL", help="A path or `postgresql://…`; the user's store if not given."
    ),
]
Template = Annotated[str | None, typer.Option("--template", help="Only of this template.")]
Device = Annotated[
    str | None, typer.Option("--device", help="Only of this device: its name, or of its hash.")
]
Format = Annotated[
    Exchange, typer.Option("--format", help="JSON lines, or the folder of TVM's `JSONDatabase`.")
]
Versions = Annotated[str | None, typer.Option("--versions", help="Only of these versions.")]


@db_app.command("list")
def _db_list(
    db: Store = None,
    template: Template = None,
    device: Device = None,
    versions: Versions = None,
    json: Json = None,
) -> None:
    """List the workloads, with the best that was found for each."""
    from tunesmith.cli_db import Where, list_command

    list_command(Where(url=db, template=template, device=device, versions=versions), json)


@db_app.command("show")
def _db_show(
    workload: Annotated[str, typer.Argument(metavar="HASH", help="The beginning is enough.")],
    db: Store = None,
    device: Device = None,
    versions: Versions = None,
    json: Json = None,
) -> None:
    """Show every trial of a workload."""
    from tunesmith.cli_db import Where, show_command

    show_command(Where(url=db, workload=workload, device=device, versions=versions), json)


@db_app.command("export")
def _db_export(
    file: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Where the records go.")],
    db: Store = None,
    format: Format = Exchange.tunesmith,
    template: Template = None,
    device: Device = None,
    versions: Versions = None,
) -> None:
    """Write records to a file of JSON lines, or to a folder in MetaSchedule's form."""
    from tunesmith.cli_db import Where, export_command

    where = Where(url=db, template=template, device=device, versions=versions)
    export_command(where, file, format is Exchange.metaschedule)


@db_app.command("import")
def _db_import(
    file: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="What `export` wrote.")],
    db: Store = None,
    format: Format = Exchange.tunesmith,
) -> None:
    """Add the records of a file; exit 1 if a line of it is no record."""
    from tunesmith.cli_db import Where, import_command

    import_command(Where(url=db), file, format is Exchange.metaschedule)


@db_app.command("merge")
def _db_merge(
    other: Annotated[str, typer.Argument(metavar="OTHER", help="A store: a path or a URL.")],
    db: Store = None,
) -> None:
    """Add the records of another store to this one."""
    from tunesmith.cli_db import Where, merge_command

    merge_command(Where(url=db), other)


@db_app.command("prune")
def _db_prune(
    db: Store = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Delete trials that did not build, run or agree.")
    ] = False,
    keep: Annotated[
        int | None, typer.Option("--keep", min=0, help="Delete all but the best N of a workload.")
    ] = None,
    versions: Annotated[
        str | None, typer.Option("--versions", help="Delete those of any other versions.")
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="TIME", help="Delete older ones (ISO 8601).")
    ] = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Delete rows that are not what was written.")
    ] = False,
) -> None:
    """Delete trials from the store."""
    from tunesmith.autotune.selection import Pruning
    from tunesmith.cli_db import Where, prune_command

    prune_command(
        Where(url=db),
        Pruning(failed=failed, keep=keep, versions=versions, before=before, damaged=damaged),
    )
