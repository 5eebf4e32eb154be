"""What `profile` and the memory of a process say of our kernels: `docs/board/facts.md`.

`python -m benchmarks.facts` measures each part in a process of its own, so that the memory of one
is not counted for another, and writes the Markdown and `facts.json` beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.board.child import busy_seconds
from benchmarks.board.rows import choose
from benchmarks.spine_facts import gather
from benchmarks.spine_rows import write_text

if TYPE_CHECKING:
    from tunesmith.report_profile import Group
    from tunesmith.runtime import Executable
    from tunesmith.runtime.profiler import Profile

ROOT = Path(__file__).resolve().parent.parent
GEMM_PEAK, BANDWIDTH, CAUSAL, MEMORY_SHARE, MEMORY_MB = 0.88, 0.80, 0.6, 1.05, 60
HEADS, WIDTH = 12, 64
LENGTHS = (1024, 2048, 4096, 8192)
LINEAR = 1.1  # memory for each token at the longest over that at the shortest
ROUNDS = 20
ROOM = ("minilm-l6/128", "distilbert/128", "bert-base/128", "vit-b16", "gpt2/prefill-128",
        "smollm2/prefill-128", "t5-small/encoder-128", "whisper-tiny/encoder")  # fmt: skip
FLOOR_TURNS = 60
BURSTS, BURST_ROUNDS = 9, 10  # profiles of the products, one after the other


@dataclass(frozen=True)
class Fact:
    """A figure beside its bound."""

    what: str
    bound: str
    found: str
    passed: bool
    how: str


def _compiled(row: str, folder: Path) -> tuple[Executable, dict[str, np.ndarray]]:
    """The artifact of a row of the board for any size, saved and loaded again, and its inputs."""
    from benchmarks.board.inputs import INPUTS, prepare
    from tunesmith.driver import compile_model
    from tunesmith.runtime import load

    (chosen,) = choose([row])
    facts = prepare(chosen, folder)
    artifact = compile_model(facts["model"], threads=1)
    artifact.save(folder / "model.tsm")
    with np.load(folder / INPUTS) as stored:
        feeds = {name: stored[name] for name in stored.files}
    return load(folder / "model.tsm", threads=1), feeds


def _profiles(
    row: str, folder: Path, bursts: int, rounds: int
) -> Iterator[tuple[list[Group], Profile]]:
    """Profiles of a row in one process, by kernels, beside what the machine reached around rounds.

    By the time of the calling thread, which stops while other processes run: what they do to clocks
    and caches shows in both, what the machine reaches and what the kernels do.
    """
    from tunesmith.backends.measure import measured_peaks
    from tunesmith.backends.targets import find_target
    from tunesmith.backends.tvm.peaks import Probe
    from tunesmith.report_profile import group_rows, peaks_beside

    executable, feeds = _compiled(row, folder)
    probe = Probe(find_target("host", 1), 1)
    for _ in range(bursts):
        profile = executable.profile(feeds, rounds=rounds, cpu_time=True, probe=probe)
        yield group_rows(profile, peaks_beside(measured_peaks(1), profile)), profile


def _share(groups: Iterable[Group]) -> float:
    """The part of the roofline that several groups reach together."""
    some = list(groups)
    return sum(g.least_needed or 0.0 for g in some) / sum(g.seconds for g in some)


def _middle(values: Sequence[float]) -> str:
    """The median and the range of shares.

    >>> _middle([0.5, 0.75, 0.7])
    '70.0% (50.0% to 75.0%)'
    """
    return f"{median(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def judged_products(
    bursts: Sequence[Sequence[Group]], reached: Sequence[float], others: float
) -> list[Fact]:
    """The shares of several profiles: the bound is held against their median.

    `reached` are the GFLOP/s of multiply-adds around all rounds, `others` is how many processors
    the rest of the machine used meanwhile.
    """
    shares = [_share(groups) for groups in bursts]
    quiet = (
        f"{len(bursts)} profiles of {BURST_ROUNDS} rounds, median and range, all layers together; "
        f"the peak was {median(reached):.0f} GFLOP/s ({min(reached):.0f} to {max(reached):.0f}), "
        f"other processes used {others:.2f} CPUs"
    )
    whole = Fact("products of BERT-base, share of the multiply-add peak", f">= {GEMM_PEAK:.0%}",
                 _middle(shares), median(shares) >= GEMM_PEAK, quiet)  # fmt: skip
    facts = [whole]
    for first in bursts[0]:
        same = [next(g for g in groups if g.name == first.name) for groups in bursts]
        facts.append(Fact(
            f"BERT-base, {first.calls} products from {first.sources[0]}", "",
            _middle([g.of_peak or 0 for g in same]), True,
            f"{median(g.gflops or 0 for g in same):.0f} GFLOP/s",
        ))  # fmt: skip
    return facts


def products(folder: Path) -> list[Fact]:
    """The products of BERT-base's layers at 128 tokens."""
    bursts, reached, used = [], [], [_others()]
    for groups, profile in _profiles("bert-base/128", folder, BURSTS, BURST_ROUNDS):
        bursts.append([g for g in groups if g.kind == "gemm" and g.calls >= 12])
        reached += [row["gflops"] for row in profile.beside]
        used.append(_others())
    (busy, since), (later, now) = used[1], used[-1]  # without compiling, in the first of them
    return judged_products(bursts, reached, max(0.0, (later - busy) / (now - since)))


def _others() -> tuple[float, float]:
    """Seconds of processors that were not ours, so far; and the time."""
    return busy_seconds() - time.process_time(), time.perf_counter()


def _whole_shares(row: str, folder: Path, bursts: int, rounds: int) -> list[float]:
    """The part of the roofline that all kernels of a row reach together, in each profile."""
    place = folder / row.replace("/", "-")
    place.mkdir()
    profiles = _profiles(row, place, bursts, rounds)
    return [_share([g for g in groups if g.is_kernel]) for groups, _ in profiles]


def decode(folder: Path) -> list[Fact]:
    """One new token: products stream their weights from memory."""
    facts = []
    for row in ("gpt2/decode-128", "smollm2/decode-256"):
        shares = _whole_shares(row, folder, BURSTS, BURST_ROUNDS)
        facts.append(Fact(f"{row}, share of the roofline, which is memory", f">= {BANDWIDTH:.0%}",
                          _middle(shares), median(shares) >= BANDWIDTH,
                          f"all kernels, {BURSTS} profiles, median and range"))  # fmt: skip
    return facts


def floor(folder: Path) -> list[Fact]:
    """How much quicker than ONNX Runtime a step can be at all that reads all weights of f32.

    A plain read of as many bytes, the model and ONNX Runtime take turns in one process; between
    them it sleeps until the workers of the one before do so too.
    """
    import onnxruntime

    from benchmarks.board.inputs import INPUTS, prepare
    from tunesmith.backends.targets import find_target
    from tunesmith.backends.tvm.peaks import passing_over
    from tunesmith.driver import compile_model
    from tunesmith.runtime import load

    (chosen,) = choose(["gpt2/decode-128"])
    model = prepare(chosen, folder)["model"]
    with np.load(folder / INPUTS) as stored:
        feeds = {name: stored[name] for name in stored.files}
    facts = []
    for threads in (2, 1):  # the first load makes the pool
        compile_model(model, threads=threads).save(folder / f"{threads}.tsm")
        ours = load(folder / f"{threads}.tsm", threads=threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        weights = sum(spec.nbytes for spec in ours.manifest.weights)
        read = passing_over(find_target("host", threads), threads, weights)
        times = _in_turns(
            read, partial(_timed, ours.run, feeds), partial(_timed, session.run, None, feeds)
        )
        for what, one in (("a plain read of its weights", 0), ("the step", 1)):
            ratios = [turn[one] / turn[2] for turn in times]
            low, high = np.quantile(ratios, (0.25, 0.75))
            facts.append(Fact(
                f"gpt2/decode-128, {threads} threads: {what}, over ONNX Runtime's step", "",
                f"{median(ratios):.3f} ({low:.3f} to {high:.3f})", True,
                f"{weights / 1e6:.0f} MB in {1e3 * median(t[one] for t in times):.1f} ms; "
                f"{len(times)} turns, the middle half",
            ))  # fmt: skip
    return facts


def _timed(run: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def _in_turns(*subjects: Callable[[], float]) -> list[list[float]]:
    """The seconds of each subject in each turn; a call before each warms its workers up."""
    turns = []
    for number in range(FLOOR_TURNS):
        found = [0.0] * len(subjects)
        for place in np.random.default_rng(number).permutation(len(subjects)):
            time.sleep(0.02)
            subjects[place]()
            found[place] = subjects[place]()
        turns.append(found)
    return turns


def room(folder: Path) -> list[Fact]:
    """What no schedule can gain on, in whole models: the rest is all that is left to tuning.

    Convolutions are not asked: by Winograd's tiles they take fewer operations than the count says.
    """
    facts = []
    for row in ROOM:
        (share,) = _whole_shares(row, folder, 1, ROUNDS)
        how = f"all kernels: at their peaks the model would be {1 / share:.3f} times as quick"
        facts.append(Fact(f"{row}, share of the roofline", "", f"{share:.1%}", True, how))
    return facts


def memory(folder: Path) -> list[Fact]:
    """The most memory of a process that loads BERT-base and runs it at 128 tokens."""
    executable, feeds = _compiled("bert-base/128", folder)
    np.savez(folder / "feeds.npz", **feeds)  # type: ignore[arg-type]  # numpy's stub
    peak = _peak_of(folder / "model.tsm", folder / "feeds.npz")
    weights = sum(spec.nbytes for spec in executable.manifest.weights) / 1e6
    arena = _arena(executable, {"batch": 1, "sequence": 128})
    bound = MEMORY_SHARE * weights + arena + MEMORY_MB
    return [Fact("BERT-base at 1x128, peak memory of the process", f"<= {bound:.0f} MB",
                 f"{peak:.0f} MB", peak <= bound,
                 f"weights {weights:.0f} MB, planned arena {arena:.1f} MB")]  # fmt: skip


def _arena(executable: Executable, sizes: dict[str, int]) -> float:
    from tunesmith.runtime.shapes import parse_dim

    return parse_dim(str(executable.manifest.report["arena"])).evaluate(sizes) / 1e6


def _peak_of(artifact: Path, feeds: Path) -> float:
    """MB at most of a process that does what the README shows: load and run."""
    code = (
        "import sys, numpy as np, tunesmith.runtime as r\n"
        "m = r.load(sys.argv[1], threads=1)\n"
        "f = dict(np.load(sys.argv[2]))\n"
        "for _ in range(3): m.run(f)\n"
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))\n"
    )
    command = [sys.executable, "-c", code, str(artifact), str(feeds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout) * 1024 / 1e6


def _attention(causal: bool, folder: Path) -> Path:
    """An artifact of one attention over any number of tokens."""
    from tunesmith.driver import compile_model
    from tunesmith.ir import opset
    from tunesmith.ir.builder import Builder
    from tunesmith.ir.dims import Sym, dim
    from tunesmith.ir.graph import Graph
    from tunesmith.ir.types import DType, TensorType

    builder = Builder(Graph("attention"))
    type = TensorType(DType.f32, (1, HEADS, dim(Sym("tokens")), WIDTH))
    operands = [builder.input(name, type) for name in "qkv"]
    with builder:
        result = opset.attention(*operands, scale=WIDTH**-0.5, causal=causal)
    path = folder / f"attention-{causal}.tsm"
    compile_model(builder.finish([result], ["y"]), threads=1).save(path)
    return path


def attention(folder: Path) -> list[Fact]:
    """Memory by length, and what is saved by skipping keys that come later."""
    from tunesmith.runtime import load

    paths = {causal: _attention(causal, folder) for causal in (False, True)}
    random = np.random.default_rng(0)

    def feeds(tokens: int) -> dict[str, np.ndarray]:
        shape = (1, HEADS, tokens, WIDTH)
        return {name: random.standard_normal(shape, np.float32) for name in "qkv"}

    each, facts = {}, []
    for tokens in LENGTHS:
        np.savez(folder / "in.npz", **feeds(tokens))  # type: ignore[arg-type]  # numpy's stub
        np.savez(folder / "one.npz", **feeds(1))  # type: ignore[arg-type]  # numpy's stub
        more = _peak_of(paths[False], folder / "in.npz") - _peak_of(
            paths[False], folder / "one.npz"
        )
        each[tokens] = 1e6 * more / tokens
    growth = each[LENGTHS[-1]] / each[LENGTHS[0]]
    text = ", ".join(f"{tokens}: {size:.0f}" for tokens, size in each.items())
    facts.append(Fact("attention, bytes for each token at 8192 over those at 1024",
                      f"<= {LINEAR}", f"{growth:.2f}", growth <= LINEAR, text))  # fmt: skip
    models = {causal: load(path, threads=1) for causal, path in paths.items()}
    inputs = feeds(4096)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(7):
        for causal, model in models.items():
            start = time.perf_counter()
            model.run(inputs)
            times[causal].append(time.perf_counter() - start)
    ratio = median(times[True]) / median(times[False])
    facts.append(Fact("causal attention at 4096 tokens, its time over that of the full one",
                      f"<= {CAUSAL}", f"{ratio:.3f}", ratio <= CAUSAL,
                      f"{1e3 * median(times[True]):.0f} ms against "
                      f"{1e3 * median(times[False]):.0f} ms"))  # fmt: skip
    return facts


PARTS: dict[str, Callable[[Path], list[Fact]]] = {
    part.__name__: part for part in (products, decode, floor, room, attention, memory)
}


def render(facts: Sequence[Fact], about: dict[str, str]) -> str:
    """The page."""
    lines = [
        "# What the kernels reach", "",
        "Written by `python -m benchmarks.facts`, a part of `make board`. One thread, unless said; "
        "shares are of "
        "what the machine reached around each round, as `tunesmith profile --cpu-time` shows them.",
        "",
        "| figure | bound | found | verdict | |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for fact in facts:
        verdict = "" if not fact.bound else "PASSED" if fact.passed else "FAILED"
        lines.append(f"| {fact.what} | {fact.bound} | {fact.found} | {verdict} | {fact.how} |")
    lines += ["", *(f"* {name}: {value}" for name, value in about.items())]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.facts")
    parser.add_argument("--part", choices=PARTS, help="one of them, as JSON on stdout")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/board", metavar="FOLDER")
    chosen = parser.parse_args(arguments)
    if chosen.part:
        with tempfile.TemporaryDirectory(prefix="tunesmith-facts-") as folder:
            print(json.dumps([asdict(fact) for fact in PARTS[chosen.part](Path(folder))]))
        return 0
    facts = []
    for part in PARTS:
        print(f"measuring {part}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.facts", "--part", part]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        facts += [Fact(**row) for row in json.loads(done.stdout.splitlines()[-1])]
    about = gather()
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_text(chosen.out / "facts.md", render(facts, about))
    rows = {"about": about, "facts": [asdict(fact) for fact in facts]}
    write_text(chosen.out / "facts.json", json.dumps(rows, indent=1) + "\n")
    for fact in facts:
        print(f"{fact.what}: {fact.found} {fact.bound} {'' if fact.passed else 'FAILED'}")
    return int(not all(fact.passed for fact in facts))


if __name__ == "__main__":
    sys.exit(main())
