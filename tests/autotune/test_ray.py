"""A cluster of two nodes on this machine: the head builds, the other one has the device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.autotune.elsewhere import BODIES, Cases, build_body, end_orphans, processes
from tests.autotune.test_local import SIZES
from tests.backends.running import target
from tests.test_layout import ROOT
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.standalone import build_written, with_knobs, written
from tunesmith.ir.diagnostics import TuneError
from tunesmith.ir.target import Target

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed"),
]

PORT, CLIENT_PORT = 26_401, 26_402
OURS = "TUNESMITH_TEST_CLUSTER"


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster that is ready; its processes have this mark."""
    mark = f"{os.getpid()}"
    folder = Path(f"/tmp/ts-ray-{mark}")  # sockets lie in it: their names must be short
    env = os.environ | {
        OURS: mark, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT),
        "RAY_idle_worker_killing_time_threshold_ms": "600000",
    }  # fmt: skip
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus"]
    ports = [
        "--min-worker-port",
        "0",
        "--max-worker-port",
        "0",
        "--object-store-memory",
        "100000000",
    ]
    head = ["1", "--head", "--port", str(PORT), "--ray-client-server-port", str(CLIENT_PORT),
            "--include-dashboard=false", "--temp-dir", str(folder)]  # fmt: skip
    device = ["0", "--address", f"127.0.0.1:{PORT}", "--resources", '{"tunesmith:lab": 1}']
    logs = tmp_path_factory.mktemp("ray")
    nodes = []
    try:
        for number, node in enumerate((head, device)):
            log = logs / f"{number}.log"
            with log.open("w") as file:
                nodes.append(subprocess.Popen([*start, *node, *ports], stdout=file, stderr=file,
                                              env=env))  # fmt: skip
            end = time.monotonic() + 60
            while "runtime started" not in log.read_text():
                assert nodes[-1].poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.2)
        assert len(processes(OURS, mark)) > 4, "the search for orphans sees what runs"
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{PORT}"
        yield mark
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        for process in reversed(nodes):
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        left = end_orphans(OURS, mark, 10)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        assert not left, "nobody outlives the nodes"


def in_child(code: str) -> str:
    """Run it in a process of its own: what joins a cluster has its threads."""
    code = f"from tests.autotune.test_ray import *\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_planted(bad: dict[str, str], text: str, where: Target, path: Path) -> None:
    """Write one of `bad` instead of the function that has this text."""
    if text not in bad:
        build_written(text, where, path)
        return
    if bad[text] == "dies":
        os.abort()
    build_body(bad[text], path)


def check_candidates() -> None:
    """Some that compute the right thing, then each kind that does not, and one after it."""
    from tunesmith.autotune.ray_workers import Cluster, RayWorkers

    cases = Cases()
    kernel = cases.task.kernel
    assert isinstance(kernel, Kernel) and kernel.template is not None
    of = {written(with_knobs(kernel, kernel.template.knobs(k))): body for k, body in cases.bad}
    of[written(with_knobs(kernel, kernel.template.knobs(cases.dying)))] = "dies"
    assert len(of) == len(BODIES) + 1
    cluster = Cluster("ray", "tunesmith:lab")
    try:
        where = cluster.target(1)
        assert where == target()
        build = partial(build_planted, of)
        outcomes = cases.measured(
            RayWorkers(cluster, where, SIZES, 0, run_deadline=3.0, build=build)
        )
    finally:
        cluster.close()
    cases.check(outcomes)


def test_good_candidates_are_measured_and_bad_ones_are_recorded(mark: str) -> None:
    in_child("check_candidates()")


def check_refusal() -> None:
    """A device that no node has."""
    from tunesmith.autotune.ray_workers import Cluster

    with pytest.raises(TuneError, match=r"tunesmith:nowhere.*tunesmith:lab"):
        Cluster("ray", "tunesmith:nowhere")


def test_a_device_that_no_node_has_is_named(mark: str) -> None:
    in_child("check_refusal()")


def test_the_command_tunes_on_the_cluster_through_its_client_port(
    mark: str, tmp_path: Path
) -> None:
    import numpy as np
    import onnx

    from tests.end_to_end.test_tune import RIGHT, trials_in
    from tests.end_to_end.test_tune import in_child as with_arguments

    text = """<ir_version: 10, opset_import: ["" : 17]>
    two (float[rows, 96] x) => (float[rows, 96] y) { y = MatMul(x, w) }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((96, 96)).astype("f4")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path, out, store = tmp_path / "m.onnx", tmp_path / "m.tsm", tmp_path / "t.db"
    onnx.save_model(model, path)
    address = f"ray://127.0.0.1:{CLIENT_PORT}"
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "tune", str(path), "-o", str(out), "--threads", "1",
         "--trials", "4", "--db", str(store), "--on", address, "--device-resource", "lab"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert trials_in(store) >= 4
    with_arguments(RIGHT, str(out), str(path))
