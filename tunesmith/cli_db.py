"""`tunesmith db`: what the tuning store holds, in and out of it, and how it is thinned out."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import typer

from tunesmith.autotune.database import Database, Imported, open_database
from tunesmith.autotune.records import Record
from tunesmith.autotune.selection import Pruning, Selection, Summary, summarize
from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note, out, print_table
from tunesmith.cli_values import check_output, write_json
from tunesmith.ir.diagnostics import TuneError

__all__ = [
    "Where",
    "export_command",
    "import_command",
    "list_command",
    "merge_command",
    "prune_command",
    "show_command",
]

_SHORT = 12  # digits of a hash that a person needs


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which store, and which of its records."""

    url: str | None
    template: str | None = None
    workload: str | None = None
    device: str | None = None
    versions: str | None = None

    def open(self, *, create: bool = False) -> Database:
        """The store; a reader does not make one."""
        return open_database(self.url, create=create, tell=note)

    @property
    def chosen(self) -> Selection:
        """The records that are meant."""
        return Selection(
            template=self.template,
            workload=self.workload,
            device=self.device,
            versions=self.versions,
        )


def list_command(where: Where, json: Path | None) -> None:
    """A row for each workload on each device."""
    with closing(where.open()) as database:
        summaries = summarize(database.records(where.chosen))
        place = database.place
    if json is not None:
        write_json(json, {"store": place, "workloads": [_summary(s) for s in summaries]})
    if str(json) == "-":
        return
    head = ("workload", "template", "features", "device", "trials", "checked", "best", "last")
    print_table(head, [_summary_row(s) for s in summaries])
    trials = sum(s.verdicts.total() for s in summaries)
    note(f"{place}: {trials} trials of {len(summaries)} workloads")


def show_command(where: Where, json: Path | None) -> None:
    """Every trial of one workload."""
    with closing(where.open()) as database:
        records = database.records(where.chosen)
    found = {r.workload.sha256: r.workload for r in records}
    if not found:
        raise TuneError(
            f"no workload's hash begins with `{where.workload}`", hint="see `tunesmith db list`"
        )
    if len(found) > 1:
        names = ", ".join(f"`{sha[:_SHORT]}`" for sha in sorted(found))
        raise TuneError(f"`{where.workload}` may be {names}", hint="write more of the hash")
    work = next(iter(found.values()))
    if json is not None:
        facts = dataclasses.asdict(work) | {"sha256": work.sha256}
        write_json(json, {"workload": facts, "trials": [_trial(r) for r in records]})
    if str(json) == "-":
        return
    out(f"workload  {work.sha256}")
    out(f"template  {work.template}")
    out(f"features  {_pairs(work.features.items())}")
    for line in work.text.splitlines():
        out(f"text      {line}")
    out()
    head = ("trial", "seed", "device", "verdict", "checked", "time", "speedup", "knobs", "reason")
    print_table(head, [_trial_row(r) for r in records])


def export_command(where: Where, file: Path, metaschedule: bool) -> None:
    """Write records to a file, or to a folder in MetaSchedule's form."""
    if metaschedule:
        from tunesmith.autotune.metaschedule import write_folder

        with closing(where.open()) as database:
            count = write_folder(file, database.records(where.chosen))
    else:
        check_output(file)
        with closing(where.open()) as database:
            count = database.export(file, where.chosen)
    out(f"written   {file}: {count} records")


def import_command(where: Where, file: Path, metaschedule: bool) -> None:
    """Add the records of a file, or of a folder; exit 1 if a line of it is none."""
    if metaschedule:
        from tunesmith.autotune.metaschedule import RECORDS, read_folder

        items = list(read_folder(file))
        with closing(where.open(create=True)) as database:
            result = database.take(items)
        file = file / RECORDS
    else:
        require_file(file)
        with closing(where.open(create=True)) as database:
            result = database.import_(file)
    for bad in result.bad:
        note(f"{file}:{bad.line}: not stored: {bad.reason}")
    _tell_imported(result)
    if result.bad:
        raise typer.Exit(1)


def merge_command(where: Where, other: str) -> None:
    """Add the records of another store."""
    with closing(open_database(other, create=False, tell=note)) as source:
        with closing(where.open(create=True)) as database:
            if source.place == database.place:
                raise TuneError("a store cannot be merged into itself", where=source.place)
            _tell_imported(database.merge(source))


def prune_command(where: Where, pruning: Pruning) -> None:
    """Delete trials."""
    with closing(where.open()) as database:
        out(f"deleted   {database.prune(pruning)} trials of {database.place}")


def _tell_imported(result: Imported) -> None:
    out(f"new       {result.new}")
    out(f"known     {result.known}")
    if result.other:
        out(
            f"left out  {result.other}: their trial is stored with another measurement, which stays"
        )
    if result.bad:
        out(f"bad       {len(result.bad)} lines")


def _summary_row(summary: Summary) -> tuple[str, ...]:
    best = summary.best
    return (
        summary.workload.sha256[:_SHORT],
        summary.workload.template,
        _pairs(summary.workload.features.items()),
        summary.device.name,
        str(summary.verdicts.total()),
        str(summary.checked),
        "none" if best is None else f"{best.speedup:.2f}x",
        summary.last or "unknown",
    )


def _trial_row(record: Record) -> tuple[str, ...]:
    time = f"{statistics.median(record.seconds) * 1e6:.1f} us" if record.seconds else "-"
    return (
        str(record.trial),
        str(record.seed),
        record.device.name,
        record.verdict.value,
        "yes" if record.checked else "no",
        time,
        f"{record.speedup:.2f}x" if record.speedup else "-",
        _pairs(record.knobs.items()),
        (record.reason.splitlines() or [""])[0][:60],
    )


def _summary(summary: Summary) -> dict[str, object]:
    return {
        "sha256": summary.workload.sha256,
        "template": summary.workload.template,
        "features": dict(summary.workload.features),
        "device": summary.device.text,
        "versions": summary.versions,
        "trials": {verdict.value: count for verdict, count in summary.verdicts.items()},
        "checked": summary.checked,
        "best": None if summary.best is None else _trial(summary.best),
        "last": summary.last,
    }


def _trial(record: Record) -> dict[str, object]:
    facts = {
        f.name: getattr(record, f.name)
        for f in dataclasses.fields(record)
        if f.name not in ("workload", "device")
    }
    return facts | {"device": record.device.text, "speedup": record.speedup}


def _pairs(items: Iterable[tuple[str, int]]) -> str:
    return " ".join(f"{name}={value}" for name, value in items) or "none"
