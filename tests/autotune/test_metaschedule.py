"""MetaSchedule's own form: TVM reads what we write, and we read what TVM writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.autotune.exchange import Bad
from tunesmith.autotune.metaschedule import RECORDS, WORKLOADS, read_folder, write_folder
from tunesmith.autotune.records import Verdict
from tunesmith.ir.diagnostics import TuneError

from .making import record, workload

pytestmark = pytest.mark.tvm

RECORDS_OF_OURS = [
    record(0, workload=workload(rows=8), speedup=1.25),
    record(1, workload=workload(rows=16), knobs={"big": 2**31 - 1, "negative": -3}),
    record(2, workload=workload(rows=8, text='ü "quoted" \\ \n\t%x'), reason='a "b" \\ \n c'),
    record(3, verdict=Verdict.crashed, seconds=(), checked=False, reason="signal 11"),
    record(4, verdict=Verdict.wrong, speedup=50.0),
    record(5, speedup=40.0, checked=False),
]

# TVM's own reader and writer, in a process of its own: it is where it crashes.
_TVM = """
import json, sys, types
sys.modules["torch"] = None
sys.modules["tvm.s_tir.tensor_intrin"] = types.ModuleType("tvm.s_tir.tensor_intrin")
import tvm
from tvm.s_tir.meta_schedule.database import JSONDatabase
old = JSONDatabase(work_dir=sys.argv[1])
new = JSONDatabase(work_dir=sys.argv[2])
facts = []
for record in old.get_all_tuning_records():
    top = old.get_top_k(record.workload, 1)
    facts.append({
        "seconds": [float(s) for s in record.run_secs],
        "knobs": {
            str(i.attrs[0]): str(i.inputs[1]) for i in record.trace.insts
            if i.kind.name == "Annotate" and i.attrs[0] != "tunesmith.record"
        },
        "samples": [
            [int(c) for c in i.attrs[0]] for i in record.trace.insts
            if i.kind.name == "SampleCategorical"
        ],
        "attrs": str(record.workload.mod["main"].attrs["tunesmith.workload"]),
    })
    schedule = tvm.s_tir.Schedule(record.workload.mod)
    record.trace.apply_to_schedule(schedule, remove_postproc=False)
    facts[-1]["replayed"] = {
        str(k): int(v) for k, v in schedule.get(schedule.get_sblock("root")).annotations.items()
        if k != "tunesmith.record"
    }
    new.commit_workload(record.workload.mod)
    new.commit_tuning_record(record)
print(json.dumps(facts))
"""


def test_tvm_reads_replays_and_writes_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    assert write_folder(old, RECORDS_OF_OURS) == len(RECORDS_OF_OURS)
    done = subprocess.run([sys.executable, "-c", _TVM, old, new], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert len(facts) == len(RECORDS_OF_OURS)
    by_text = {(f["attrs"], json.dumps(f["replayed"], sort_keys=True)): f for f in facts}
    for one in RECORDS_OF_OURS:
        named = {f"tunesmith.{name}": value for name, value in one.knobs.items()}
        key = next(k for k in by_text if json.loads(k[0])["text"] == one.workload.text
                   and json.loads(k[1]) == named)  # fmt: skip
        fact = by_text[key]
        assert fact["samples"] == [[value] for value in one.knobs.values()]
        assert json.loads(fact["attrs"])["features"] == one.workload.features
    usable = {tuple(f["seconds"]) for f in facts} - {(1e10,)}
    assert usable == {one.seconds for one in RECORDS_OF_OURS[:3]}
    assert sum(f["seconds"] == [1e10] for f in facts) == 3

    assert list(read_folder(old)) == RECORDS_OF_OURS
    again = list(read_folder(new))  # as TVM itself wrote it
    assert sorted(r.digest for r in again if not isinstance(r, Bad)) == sorted(
        r.digest for r in RECORDS_OF_OURS
    )


def test_what_is_none_of_ours_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path, RECORDS_OF_OURS[:2])
    path = tmp_path / RECORDS
    first, second = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            [first.replace("cascadelake", "skylake"), second.replace("[1, ", "[7, ", 1), first]
        )
    )
    found = list(read_folder(tmp_path))
    bad = [item for item in found if isinstance(item, Bad)]
    assert [item.line for item in bad] == [1, 2]
    assert "digest is another" in bad[0].reason
    assert "no workload 7" in bad[1].reason
    assert RECORDS_OF_OURS[0] in found


def test_a_file_that_tvm_cannot_read_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="there is no"):
        list(read_folder(tmp_path))
    write_folder(tmp_path, RECORDS_OF_OURS[:1])
    path = tmp_path / WORKLOADS
    text = path.read_text()
    for damaged in (text[:-400] + '"]\n', "\n"):
        path.write_text(damaged)
        with pytest.raises(TuneError, match="cannot read it"):
            list(read_folder(tmp_path))


@pytest.mark.parametrize(
    ("knobs", "words"), [({"record": 1}, "called `record`"), ({"k": 2**31}, "`k` does not fit")]
)
def test_a_knob_that_it_cannot_hold_is_refused(
    tmp_path: Path, knobs: dict[str, int], words: str
) -> None:
    with pytest.raises(TuneError, match=words):
        write_folder(tmp_path, [record(knobs=knobs)])
    assert list(tmp_path.iterdir()) == []
