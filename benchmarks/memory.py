"""`python -m benchmarks.memory`: peak memory of compiling a model with 2 GB of external data.

The model is written to a temporary folder, `tunesmith compile` runs in a process of its own, and
`/proc/PID/smaps_rollup` of that process and all that it starts is read every few milliseconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.memory_model import build_decoder
from benchmarks.spine_facts import ROOT, commit, gather, now
from benchmarks.spine_rows import write_text

DOCUMENT = ROOT / "docs" / "memory.md"
MOST = 1.5  # of the weights' bytes
FIELDS = ("Rss", "Pss", "Pss_Anon", "Pss_File", "Private_Dirty")


@dataclass
class Peaks:
    """The greatest sum over a tree of processes of each field, each at its own moment, in bytes."""

    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FIELDS, 0))
    samples: int = 0

    def see(self, pid: int) -> None:
        """Take a sample of a process and its descendants."""
        total = dict.fromkeys(FIELDS, 0)
        for one in _tree(pid):
            for name, size in _rollup(one).items():
                total[name] += size
        self.bytes = {name: max(self.bytes[name], total[name]) for name in FIELDS}
        self.samples += 1


def _tree(pid: int) -> Iterator[int]:
    """A process and what it started; one that ends meanwhile is left out."""
    yield pid
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        for task in tasks:
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))
    except OSError:
        return


def _rollup(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines[1:])
    found = {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in pairs if len(parts) == 3}
    return {name: found.get(name, 0) for name in FIELDS}


def measure(command: Sequence[str], interval: float = 0.02) -> tuple[Peaks, float, int]:
    """Run a command; its peaks, its seconds, and its exit status."""
    peaks, start = Peaks(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            peaks.see(process.pid)
            time.sleep(interval)
    finally:
        process.kill()
        process.wait()
    return peaks, time.perf_counter() - start, process.returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with and without trying the result; 1 if a peak is too high or compiling failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--bytes", type=int, default=2 << 30, help="of weights, at least")
    parser.add_argument("--write", action="store_true", help="write docs/memory.md")
    options = parser.parse_args(arguments)
    rows, good = [], True
    with tempfile.TemporaryDirectory(prefix="tunesmith-memory-") as text:
        folder = Path(text)
        start = time.perf_counter()
        model, weights = build_decoder(folder, options.bytes)
        print(f"{weights / 1e9:.2f} GB of weights in {time.perf_counter() - start:.0f} s")
        for title, flags in (("no", ["--no-verify"]), ("yes", [])):
            command = [
                sys.executable, "-m", "tunesmith", "compile", str(model), "-o",
                str(folder / "model.tsm"), "--dim", "batch=1..4", "--dim", "rows=1..512", *flags,
            ]  # fmt: skip
            peaks, seconds, status = measure(command)
            share = {name: size / weights for name, size in peaks.bytes.items()}
            fits = status == 0 and share["Pss"] <= MOST
            good &= fits
            rows.append(
                f"| {title} | {share['Pss']:.2f} | {share['Pss_Anon']:.2f} |"
                f" {share['Private_Dirty']:.2f} | {share['Pss_File']:.2f} | {share['Rss']:.2f} |"
                f" {peaks.bytes['Pss'] / 1e9:.2f} GB | {seconds:.0f} s | {peaks.samples} |"
                f" {'passed' if fits else f'FAILED (exit status {status})'} |"
            )
            print(rows[-1], flush=True)
    if options.write:
        write_text(DOCUMENT, _document(rows, weights))
    return int(not good)


def _document(rows: Sequence[str], weights: int) -> str:
    facts = gather()
    return f"""# Memory of compiling

Written by `make memory` on {now()}, at commit {commit()}: no figure here was written by hand.

A decoder with {weights / 1e9:.2f} GB of f32 weights in external data (layers of Llama 3.2 1B,
random weights, batches to 4 and sequences to 512) is compiled by `tunesmith compile` in a process
of its own. Figures are peaks over that process and all that it starts, over the bytes of the
weights; each column at its own moment. At most {MOST} are promised for the first column.

| tried beside ONNX Runtime | all (PSS) | memory of its own | private and written | mapped files |\
 sum of RSS | all, bytes | time | samples | verdict |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---|
{chr(10).join(rows)}

PSS counts a page that several processes have in proportion, so that their sum is what the machine
gives; the sum of RSS counts it once for each. Mapped files are pages of the model's file and of
libraries, which the system can drop at any time; compiling drops those of a weight when it is
done with it. A weight is packed when it is written, one at a time, as far as all of them are more
than 512 MiB. To try the result, both engines need all weights, one after the other: ONNX Runtime
reads them where they are mapped, ours packs them in memory.

{facts["cpu"]}, {facts["memory"]}; cached kernels may have been used, which cost no memory.
"""


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    sys.exit(main())
