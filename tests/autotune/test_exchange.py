"""Whatever a record says, it says the same after a file and after a store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.autotune.database import open_database
from tunesmith.autotune.exchange import Bad, lines_of, read_lines, write_whole
from tunesmith.autotune.records import Device, Record, Verdict, Workload, canonical

from .making import record, workload

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_LINE = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]))
_INT64 = st.integers(-(2**63), 2**63 - 1)
_NUMBERS = st.dictionaries(_TEXT, _INT64, max_size=4)
_TIMES = st.lists(
    st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False), min_size=1
)
_RECORDS = st.builds(
    Record,
    workload=st.builds(Workload, template=_LINE, text=_TEXT, features=_NUMBERS),
    device=st.builds(Device, text=st.dictionaries(_TEXT, _TEXT, max_size=3).map(canonical)),
    versions=_TEXT,
    knobs=_NUMBERS,
    seed=_INT64,
    trial=st.integers(0, 2**63 - 1),
    verdict=st.sampled_from(Verdict),
    checked=st.booleans(),
    seconds=_TIMES.map(tuple),
    baseline=_TIMES.map(tuple),
    reason=_TEXT,
    by=_TEXT,
    at=_TEXT,
)


@settings(max_examples=40)
@given(st.lists(_RECORDS, max_size=5))
def test_a_record_survives_a_file_and_a_store(records: list[Record]) -> None:
    lines = [line.encode() for line in lines_of(records)]
    assert not any(b"\n" in line for line in lines)
    assert list(read_lines(lines)) == records
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tune.db"
        with open_database(path) as database:
            counts = database.take(records)
        with open_database(path) as database:
            stored = database.records()
        assert counts.new == len(stored)
        assert all(one in records for one in stored)
        assert counts.new + counts.known + counts.other == len(records)


@settings(max_examples=200)
@given(st.data())
def test_a_changed_byte_never_gives_another_record(data: st.DataObject) -> None:
    records = [record(0), record(1, workload=workload(rows=16))]
    whole = bytearray("\n".join(lines_of(records)).encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    found = [item for item in read_lines(bytes(whole).split(b"\n")) if isinstance(item, Record)]
    assert all(one in records for one in found)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "JSON"),
        (b"[1]", "TypeError"),
        (b"\xff{}", "UnicodeDecodeError"),
        (b'{"kind":"song"}', "`song` is no kind of line"),
        (b'{"kind":"device","sha256":"0","text":"{}"}', "its hash is another"),
        (b'{"kind":"trial","format":2}', "format 2 is not known"),
        (b'{"kind":"trial","format":1,"workload":"0"}', "no line above has its workload"),
        (b"[" * 100_000, "RecursionError"),
        (b"9" * 10_000, "ValueError"),
    ],
)
def test_a_bad_line_is_told_with_its_number(line: bytes, reason: str) -> None:
    good = [text.encode() for text in lines_of([record()])]
    found = list(read_lines([good[0], b"", line, *good[1:]]))
    assert isinstance(found[0], Bad)
    assert (found[0].line, reason in found[0].reason) == (3, True), found[0]
    assert found[1:] == [record()]


def test_a_line_with_the_right_digest_and_the_wrong_type_is_refused() -> None:
    """Stored, it would not read back as itself, and the store would look damaged."""
    *owners, trial = lines_of([record()])
    facts = json.loads(trial)
    for name, value in (("checked", 1), ("seed", 0.0), ("trial", False)):
        found = list(read_lines(t.encode() for t in [*owners, canonical(facts | {name: value})]))
        assert len(found) == 1
        assert isinstance(found[0], Bad) or found == [record()], name


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def lines() -> Iterator[str]:
        yield "a"
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        write_whole(path, lines())
    assert path.read_text() == "old"
    assert write_whole(path, ["a", "b"]) == 2
    assert path.read_text() == "a\nb\n"
    assert list(tmp_path.iterdir()) == [path]
