"""An exported model of each architecture, compiled, and run where there is no compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import zoo
from tunesmith.driver import compile_model
from tunesmith.oracle import OnnxSession

pytestmark = [pytest.mark.tvm, pytest.mark.zoo]

SIZES = [(1, 1), (2, 17), (3, 64), (1, 33)]  # batch, sequence
ROUTES = ("torchscript17-eager", "dynamo23-sdpa")
NAMES = [
    *(n for n, e in zoo.ENTRIES.items() if e.small and n.split("/")[1] in ROUTES),
    *(n for n, e in zoo.BOARD_ENTRIES.items() if e.small and "dynamo18" in n),
]

RUN = """
import json, sys
import numpy as np
from tunesmith.runtime import load

model = load(sys.argv[1], threads=int(sys.argv[2]))
for number in range(int(sys.argv[3])):
    feeds = dict(np.load(f"{sys.argv[4]}/in{number}.npz"))
    np.savez(f"{sys.argv[4]}/out{number}.npz", **model.run(feeds))
print(json.dumps(sorted(m for m in sys.modules if m in ("onnx", "torch", "networkx", "tvm"))))
"""


@pytest.mark.parametrize("name", NAMES)
def test_it_is_right_in_a_fresh_process(name: str, tmp_path: Path) -> None:
    if reason := zoo.unavailable():
        pytest.skip(reason)
    entry = zoo.TABLE[name]
    path = zoo.path(entry)
    artifact = tmp_path / "model.tsm"
    compile_model(path, threads=2).save(artifact)
    oracle = OnnxSession(path, threads=1)
    expected: list[dict[str, Any]] = []
    for number, (batch, length) in enumerate(SIZES):
        feeds = zoo.inputs(entry, batch, length, seed=number)
        np.savez(tmp_path / f"in{number}.npz", allow_pickle=False, **feeds)
        expected.append(oracle.run(feeds))
    for threads in ("1", "2"):
        command = [
            sys.executable,
            "-c",
            RUN,
            str(artifact),
            threads,
            str(len(SIZES)),
            str(tmp_path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout) == []
        for number, theirs in enumerate(expected):
            ours = np.load(tmp_path / f"out{number}.npz")
            assert set(ours) == set(theirs)
            for name, want in theirs.items():
                assert np.abs(ours[name] - want).max() <= 1e-4, (name, SIZES[number])
