"""Records in MetaSchedule's own form: the two files of TVM's `JSONDatabase`, in one folder.

A workload is a small TIR module of ours that carries template, text and features as attributes. A
record's trace samples each knob (`SampleCategorical`) and writes the sample to the root block as
`tunesmith.KNOB`, as a schedule of our templates does; the rest of the record is a string beside
them, `tunesmith.record`. A trial that may not be used has the time that MetaSchedule gives to
failures, so that no query of TVM's prefers it.

TVM reads such files with code that trusts them, so reading happens in a process of its own, which
answers with our JSON lines: `python -m tunesmith.autotune.metaschedule FOLDER`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.ir.diagnostics import TuneError

from .exchange import Bad, lines_of, read_lines, write_whole
from .records import Device, Record, Verdict, Workload, canonical

if TYPE_CHECKING:
    import tvm

__all__ = [
    "PREFIX", "RECORDS", "WORKLOADS", "knobs_of", "read_folder", "workload_module", "write_folder",
]  # fmt: skip

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"  # TVM's names
_FAILED = 1e10  # seconds; what MetaSchedule stores for a candidate that did not run
_SECONDS = 600  # for the child that reads
PREFIX, _REST = "tunesmith.", "tunesmith.record"


def write_folder(folder: Path, records: Iterable[Record]) -> int:
    """Write both files of a `JSONDatabase`; how many records.

    Raises `OSError` if they cannot be written, `TuneError` if a knob is called `record`
    or does not fit 32 bits.
    """
    modules: dict[Workload, tuple[int, tvm.s_tir.meta_schedule.database.Workload]] = {}
    lines: list[str] = []
    for record in records:
        if record.workload not in modules:
            modules[record.workload] = len(modules), _workload(record.workload)
        index, workload = modules[record.workload]
        lines.append(json.dumps([index, _tuning_record(record, workload).as_json()]))
    workloads = [json.dumps(workload.as_json()) for _, workload in modules.values()]
    folder.mkdir(exist_ok=True)
    write_whole(folder / WORKLOADS, workloads)  # first: a record needs its workload
    return write_whole(folder / RECORDS, lines)


def read_folder(folder: Path) -> Iterator[Record | Bad]:
    """The records of a `JSONDatabase` that have our fields; a `Bad` for each line that has not.

    Raises `TuneError` if the files crash the code of TVM that reads them, or hang it.
    """
    for name in (WORKLOADS, RECORDS):
        if not (folder / name).is_file():
            raise TuneError(
                f"there is no `{name}`",
                where=str(folder),
                hint="name the folder of a `JSONDatabase`",
            )
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise TuneError(f"TVM did not read it in {_SECONDS} s", where=str(folder)) from None
    if done.returncode != 0:
        words = (done.stderr.decode(errors="replace").strip().splitlines() or ["no words"])[-1]
        raise TuneError(f"TVM cannot read it: status {done.returncode}: {words}", where=str(folder))
    for line in done.stdout.splitlines():
        facts = json.loads(line)
        if facts["kind"] == "bad":
            yield Bad(facts["line"], facts["reason"])
    ours = (line for line in done.stdout.splitlines() if json.loads(line)["kind"] != "bad")
    yield from read_lines(ours)


def _tvm() -> Any:
    """TVM (it has no types), without the parts that cost most of its import and are not needed."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # means: cannot be imported
    intrinsics = "tvm.s_tir.tensor_intrin"
    sys.modules.setdefault(intrinsics, types.ModuleType(intrinsics))
    import tvm
    import tvm.s_tir.meta_schedule.database

    return tvm


def _workload(work: Workload) -> tvm.s_tir.meta_schedule.database.Workload:
    return _tvm().s_tir.meta_schedule.database.Workload(workload_module(work))


def workload_module(work: Workload) -> tvm.IRModule:
    """A function that does next to nothing, and says what it stands for."""
    tvm = _tvm()
    from tvm import te

    size = te.placeholder((1,), "float32", "x")
    function = te.create_prim_func([size, te.compute((1,), lambda i: size[i], "y")])
    facts = {"template": work.template, "text": work.text, "features": dict(work.features)}
    function = function.with_attr({"global_symbol": "main", "tunesmith.workload": canonical(facts)})
    return tvm.IRModule({"main": function})


def _tuning_record(
    record: Record, workload: tvm.s_tir.meta_schedule.database.Workload
) -> tvm.s_tir.meta_schedule.database.TuningRecord:
    tvm = _tvm()
    if "record" in record.knobs:
        raise TuneError("a knob called `record` has no name in MetaSchedule's form")
    wide = [name for name, value in record.knobs.items() if not -(2**31) <= value < 2**31]
    if wide:  # TVM would replay it as another number
        raise TuneError(f"knob `{wide[0]}` does not fit the 32 bits of MetaSchedule's form")
    schedule = tvm.s_tir.Schedule(workload.mod)
    root = schedule.get_sblock("root")
    for name, value in record.knobs.items():
        sample = schedule.sample_categorical([value], [1.0], 0)
        schedule.annotate(root, f"{PREFIX}{name}", sample)
    rest = {
        name: getattr(record, name)
        for name in ("versions", "seed", "trial", "verdict", "checked", "seconds", "baseline",
                     "reason", "by", "at", "digest")
    }  # fmt: skip
    schedule.annotate(root, _REST, canonical(rest | {"device": record.device.text}))
    usable = record.checked and record.verdict in (Verdict.ok, Verdict.slower) and record.seconds
    return tvm.s_tir.meta_schedule.database.TuningRecord(
        schedule.trace,
        workload,
        list(record.seconds) if usable else [_FAILED],
        tvm.target.Target("llvm"),
        None,
    )


def _read_here(folder: Path) -> Iterator[Record | Bad]:
    """What `read_folder` says, in this process."""
    database = _tvm().s_tir.meta_schedule.database
    kept: list[tuple[Any, Workload | str]] = []
    for line in (folder / WORKLOADS).read_text(encoding="utf-8").splitlines():
        workload = database.Workload.from_json(json.loads(line))
        kept.append((workload, _our_workload(workload)))
    lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            index, text = json.loads(line)
            if not 0 <= index < len(kept):
                raise ValueError(f"there is no workload {index}")
            workload, ours = kept[index]
            if isinstance(ours, str):
                raise ValueError(ours)
            yield _record(database.TuningRecord.from_json(text, workload), ours)
        except TuneError as error:
            yield Bad(number, error.message)
        except (ValueError, TypeError, LookupError) as error:
            yield Bad(number, f"{type(error).__name__}: {error}".splitlines()[0])


def _our_workload(workload: tvm.s_tir.meta_schedule.database.Workload) -> Workload | str:
    """The workload that a module stands for, or why it is none of ours."""
    for function in workload.mod.functions.values():
        text = function.attrs.get("tunesmith.workload") if function.attrs else None
        if text is not None:
            try:
                return Workload(**json.loads(str(text)))
            except (TuneError, ValueError, TypeError) as error:
                return f"its workload cannot be read: {error}"
    return "its workload is none of ours"


def knobs_of(trace: tvm.s_tir.Trace) -> dict[str, int]:
    """The knobs of a trace, each as it was decided, whatever it was chosen from."""
    decisions = dict(trace.decisions.items())
    samples: dict[Any, int] = {}
    knobs: dict[str, int] = {}
    for instruction in trace.insts:
        if instruction.kind.name == "SampleCategorical":
            candidates = instruction.attrs[0]
            samples[instruction.outputs[0]] = int(candidates[int(decisions[instruction])])
        elif instruction.kind.name == "Annotate":
            key, value = str(instruction.attrs[0]), instruction.inputs[1]
            if key.startswith(PREFIX) and key != _REST:
                knobs[key.removeprefix(PREFIX)] = samples[value]
    return knobs


def _record(found: tvm.s_tir.meta_schedule.database.TuningRecord, work: Workload) -> Record:
    """Our record from a trace."""
    knobs, rest = knobs_of(found.trace), {}
    for instruction in found.trace.insts:
        if instruction.kind.name == "Annotate" and str(instruction.attrs[0]) == _REST:
            rest = json.loads(str(instruction.inputs[1]))
    if not rest:
        raise ValueError("its trace has no `tunesmith.record`")
    device, digest = Device(text=rest.pop("device")), rest.pop("digest")
    rest |= {name: tuple(rest[name]) for name in ("seconds", "baseline")}
    record = Record(workload=work, device=device, knobs=knobs, **rest)
    if record.digest != digest:
        raise ValueError("its digest is another")
    return record


def main(folder: str) -> None:
    """Print the records of a folder as our JSON lines, and what is none as lines `bad`."""
    found = list(_read_here(Path(folder)))
    for item in found:
        if isinstance(item, Bad):
            print(canonical({"kind": "bad", "line": item.line, "reason": item.reason}))
    for line in lines_of(item for item in found if isinstance(item, Record)):
        print(line)


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # a text stream
    main(sys.argv[1])
