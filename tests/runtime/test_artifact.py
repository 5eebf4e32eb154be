"""The file: what is written can be read by any zip tool, and nothing else is read."""

from __future__ import annotations

import errno
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tunesmith.ir.diagnostics import ArtifactError
from tunesmith.runtime import archive
from tunesmith.runtime.artifact import Artifact
from tunesmith.runtime.manifest import CHUNK_BYTES

from .conftest import tiny_manifest

FAKE = b"\x7fELF, as far as the container is concerned"
WEIGHTS: dict[str, np.ndarray] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.int64),
    "scalar": np.array(3, np.float16),
    "mask": np.array([True, False, True]),
    "transposed": np.arange(12, dtype=np.int32).reshape(3, 4).T,
    "large": np.arange(CHUNK_BYTES + 100, dtype=np.uint8),
}


def plain(weights: Mapping[str, np.ndarray] = WEIGHTS) -> Artifact:
    return Artifact(manifest=tiny_manifest(), library=FAKE, weights=weights, graph="graph ö\n",
                    notes={"notes.txt": b"hello"})  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    path = plain().save(tmp_path / "m.tsm")
    again = Artifact.open(path)
    assert again.library == FAKE and again.graph == "graph ö\n"
    assert again.notes == {"notes.txt": b"hello"}
    assert list(again.weights) == list(WEIGHTS)
    for name, weight in WEIGHTS.items():
        read = again.weights[name]
        assert read.dtype == weight.dtype and read.shape == weight.shape
        assert np.array_equal(read, weight)
        assert read.flags.writeable and (read.size == 0 or read.ctypes.data % 64 == 0)
    again.verify_weights()
    assert os.listdir(tmp_path) == ["m.tsm"]


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    first = plain().save(tmp_path / "a.tsm")
    second = Artifact.open(first).save(tmp_path / "b.tsm")
    assert first.read_bytes() == second.read_bytes()


def test_mapped_weights_are_private(tmp_path: Path) -> None:
    path = plain().save(tmp_path / "m.tsm")
    before = path.read_bytes()
    Artifact.open(path).weights["a"][...] = 7
    assert path.read_bytes() == before


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    path = plain().save(tmp_path / "m.tsm")
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert sorted(file.namelist()) == [
            "graph.nir", "kernels.so", "manifest.json", "notes.txt", "weights.bin"]  # fmt: skip
        assert file.read("kernels.so") == FAKE
        info = file.getinfo("weights.bin")
        with open(path, "rb") as raw:
            raw.seek(info.header_offset + 26)
            name, extra = struct.unpack("<2H", raw.read(4))
        assert (info.header_offset + 30 + name + extra) % 4096 == 0


def test_large_numbers_move_into_zip64_fields() -> None:
    large = archive.Entry("weights.bin", 100, 4096, 5 << 30, 0)
    header = large.data + large.size
    far = archive.Entry("last.txt", header, archive._data_offset("last.txt", header), 3, 7)
    rows = archive._central(large) + archive._central(far)
    assert archive._parse_directory(rows) == [large, far]


def test_an_error_of_the_disk_while_more_is_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(archive, "_sync", fails)
    monkeypatch.setattr(archive, "_SYNCED_BYTES", 8)
    chunks = [b"12345678"] * 3
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="broken"):
        archive.ArchiveWriter(file).add("weights.bin", chunks)
    with open(tmp_path / "file", "wb") as file:
        archive.ArchiveWriter(file).add("weights.bin", [b"1234567"])  # too little to begin early


def test_more_than_four_gigabytes_in_a_sparse_file(tmp_path: Path) -> None:
    size = (4 << 30) + 5
    path = tmp_path / "huge.tsm"
    with open(path, "wb") as file:
        writer = archive.ArchiveWriter(file)
        writer.add("kernels.so", [b"code"])
        header = writer.entries[0].data + 4
        data = archive._data_offset("weights.bin", header)
        writer.entries.append(archive.Entry("weights.bin", header, data, size, 0))
        file.seek(header)
        file.write(archive._local(writer.entries[-1]))
        writer.add("manifest.json", [b"{}"])
        writer.finish()
    fd = os.open(path, os.O_RDONLY)
    try:
        entries = archive.read_directory(fd, path.stat().st_size)
        assert entries["weights.bin"].size == size
        assert archive.read_entry(fd, entries["manifest.json"], 10) == b"{}"
    finally:
        os.close(fd)
    with zipfile.ZipFile(path) as other:
        assert other.getinfo("weights.bin").file_size == size
        assert other.read("manifest.json") == b"{}"


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    class Weights(dict[str, np.ndarray]):
        def items(self) -> Iterator[tuple[str, np.ndarray]]:  # type: ignore[override]  # streamed
            yield "a", np.zeros(10_000)
            raise MemoryError

    path = tmp_path / "m.tsm"
    path.write_bytes(b"old")
    with pytest.raises(MemoryError):
        plain(Weights(a=np.zeros(1))).save(path)
    bad = {"c": np.zeros(3, np.complex64)}
    with pytest.raises(ArtifactError, match="complex64"):
        plain(bad).save(path)
    assert os.listdir(tmp_path) == ["m.tsm"] and path.read_bytes() == b"old"


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (0, 100, 5000, 100_000, 4_000_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            with pytest.raises(ArtifactError, match="cannot write the file"):
                plain().save(tmp_path / "m.tsm")
            assert os.listdir(tmp_path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.tsm").mkdir()
    for path in (tmp_path / "no" / "m.tsm", tmp_path / "folder.tsm"):
        with pytest.raises(ArtifactError, match="cannot write the file"):
            plain().save(path)
    assert os.listdir(tmp_path) == ["folder.tsm"]


def test_notes_cannot_pose_as_files(tmp_path: Path) -> None:
    for name in ("kernels.so", "manifest.json", "../x", "A.txt", "", "a/b"):
        artifact = plain()
        artifact.notes = {name: b""}
        with pytest.raises(ArtifactError):
            artifact.save(tmp_path / "m.tsm")
    assert os.listdir(tmp_path) == []


def test_files_that_are_no_artifacts(tmp_path: Path) -> None:
    path = plain().save(tmp_path / "m.tsm")
    other = tmp_path / "other"
    other.mkdir()
    (other / "text").write_text("hello" * 100)
    (other / "nothing").touch()
    (other / "link").symlink_to(path)
    os.mkfifo(other / "pipe")
    with zipfile.ZipFile(other / "zip", "w") as file:
        file.writestr("manifest.json", "{}")
    for name, message in {
        "text": "not an artifact", "nothing": "not an artifact", "link": "symbolic link",
        "pipe": "not a regular file", "zip": "manifest.json", "missing": "no such file",
        ".": "not a regular file",
    }.items():  # fmt: skip
        with pytest.raises(ArtifactError) as caught:
            Artifact.open(other / name)
        assert message in str(caught.value) and str(other / name) in str(caught.value)
    os.link(path, other / "second")
    with pytest.raises(ArtifactError, match="more than one name"):
        Artifact.open(path)


def test_zip_tricks_are_refused(tmp_path: Path) -> None:
    """Each of these is a valid archive with the right files for some zip reader."""
    path = plain().save(tmp_path / "m.tsm")
    good = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        contents = {info.filename: file.read(info) for info in file.infolist()}

    def refused(content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            Artifact.open(path)

    refused(b"#!/bin/sh\n" + good)
    refused(good + b"\0")
    refused(good[:-2] + b"\5\0hello")  # a comment
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for extra in ({}, {"more.txt": b""}, {"../x": b""}):
            rewritten = tmp_path / "again.zip"
            with zipfile.ZipFile(rewritten, "w", compression) as file:
                for name, content in (contents | extra).items():
                    file.writestr(name, content)
            refused(rewritten.read_bytes())
    with zipfile.ZipFile(path, "w") as file:
        pass
    refused(path.read_bytes())
    path.write_bytes(good)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("more.txt", b"")
    refused(path.read_bytes())


def test_every_cut_and_every_flip_of_a_header_is_refused(tmp_path: Path) -> None:
    path = plain({"w": np.arange(20, dtype=np.float32)}).save(tmp_path / "m.tsm")
    good = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("weights.bin")
    start = good.index(np.arange(20, dtype=np.float32).tobytes())
    for at in range(len(good)):
        if good[at] == 0 and at % 16:  # of the long paddings, a part will do
            continue
        damaged = bytearray(good)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        if start <= at < start + info.file_size:
            with pytest.raises(ArtifactError, match="damaged in chunk 0"):
                Artifact.open(path).verify_weights()
        else:
            with pytest.raises(ArtifactError):
                Artifact.open(path)
    for size in range(0, len(good), 41):
        path.write_bytes(good[:size])
        with pytest.raises(ArtifactError):
            Artifact.open(path)


def test_the_hash_of_the_weights_is_that_of_their_chunks(tmp_path: Path) -> None:
    path = plain({"w": np.arange(20, dtype=np.float32)}).save(tmp_path / "m.tsm")
    manifest = Artifact.open(path).manifest
    chunk = manifest.weights[0].chunks[0]
    other = f"{int(chunk[0], 16) ^ 1:x}{chunk[1:]}"
    good = path.read_bytes()
    text = manifest.to_json().encode()
    lying = text.replace(chunk.encode(), other.encode())
    rewritten = bytearray(good.replace(text, lying))
    old, new = (struct.pack("<I", zlib.crc32(some)) for some in (text, lying))
    path.write_bytes(bytes(rewritten).replace(old, new))
    with pytest.raises(ArtifactError, match="is not that of its chunks"):
        Artifact.open(path)


def test_gaps_between_weights_are_checked(tmp_path: Path) -> None:
    path = plain().save(tmp_path / "m.tsm")
    good = bytearray(path.read_bytes())
    good[good.index(WEIGHTS["a"].tobytes()) + 24] = 1
    path.write_bytes(good)
    with pytest.raises(ArtifactError, match="gap before weight"):
        Artifact.open(path).verify_weights()


def test_without_weights_and_with_only_empty_ones(tmp_path: Path) -> None:
    for weights in ({}, {"e": np.zeros((0, 3), np.float32)}):
        artifact = Artifact.open(plain(weights).save(tmp_path / "m.tsm"))
        artifact.verify_weights()
        assert {n: w.shape for n, w in artifact.weights.items()} == {
            n: w.shape for n, w in weights.items()}  # fmt: skip
