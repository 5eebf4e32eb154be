"""Engines for tests of the board: ONNX Runtime behind a pause, and one that counts its builds.

As a program it is the board's worker, which knows these two as well.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from benchmarks import peers_onnx
from benchmarks.board import worker
from benchmarks.peers import PEERS
from benchmarks.peers_contract import Job, Loaded, Peer

__all__ = ["ENGINES", "SLEEP"]

SLEEP = 0.9  # seconds: more than four times the test's limit


def _sleeping(job: Job) -> Loaded:
    loaded = peers_onnx.load_plain(job)

    def run() -> Any:
        time.sleep(SLEEP)
        return loaded.run()

    return replace(loaded, run=run)


def _count(job: Job) -> None:
    with (job.model.parent / "builds").open("a") as file:
        file.write("built\n")


ENGINES = (
    Peer("sleeping", "sleeping", ("onnxruntime",), peers_onnx.start_onnxruntime, _sleeping),
    Peer(
        "built", "built", ("onnxruntime",), peers_onnx.start_onnxruntime, peers_onnx.load_plain,
        _count, build_depends=PEERS["iree"].build_depends,
    ),
)  # fmt: skip

if __name__ == "__main__":
    PEERS.update({peer.name: peer for peer in ENGINES})
    sys.exit(worker.main(sys.argv[1:]))
