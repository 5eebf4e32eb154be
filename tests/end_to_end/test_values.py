"""Inputs whose elements are fixed when compiling: what they decide, and what guards them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from tests.cli.conftest import Cli, cli  # noqa: F401  # a fixture
from tunesmith import onnx_backend
from tunesmith.driver import compile_model
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError, InputError, UndecidedError
from tunesmith.oracle import OnnxSession
from tunesmith.runtime import Artifact, load

pytestmark = pytest.mark.tvm

REDUCE = """(float[n,3,4] x, int64[k] axes) => (float[a,b,c] y)
    { s = ReduceSum<keepdims=1>(x, axes)  y = Relu(s) }"""
# the shape is worked out from `k` by operators that are no shape arithmetic
SHAPED = """(float[12] x, float[3] k, float[12] bias) => (float[a,b] y) {
    top, where = TopK<axis=0>(k, one)  size = Cast<to=7>(top)  rows = Concat<axis=0>(size, rest)
    moved = Add(x, bias)  y = Reshape(moved, rows) }"""
# two stages: how many rounds, and then how often what the rounds gave is repeated
STAGED = """(int64 rounds, float[4] x, int64[1] times) => (float[m] y) {
    sum = Loop(rounds, yes, x) <body = body (int64 i, bool c, float[4] s) => (bool d, float[4] t)
        { d = Identity(c)  t = Add(s, x) }>
    y = Tile(sum, times) }"""
CONSTANTS: dict[str, object] = {
    "one": [1], "rest": [-1], "yes": True,
}  # fmt: skip


def model(text: str, name: str = "g") -> ModelProto:
    """A model of opset 18, with the constants that its text names."""
    found = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {name} {text}')
    for key, value in CONSTANTS.items():
        if any(key in node.input for node in found.graph.node):
            found.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), key))
    return found


def floats(*shape: int) -> NDArray[np.float32]:
    """Random numbers."""
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def agree(proto: ModelProto, ours: dict[str, Any], feeds: dict[str, Any]) -> None:
    """Hold outputs against those of ONNX Runtime."""
    theirs = OnnxSession(proto, threads=1).run(feeds)
    for name, want in theirs.items():
        assert ours[name].shape == want.shape
        assert np.allclose(ours[name], want.astype(np.float64), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def fixed() -> Artifact:
    return compile_model(model(REDUCE), values={"axes": [0, -1]}, threads=1, verify=True)


def test_axes_are_known_and_other_sizes_stay_open(fixed: Artifact, tmp_path: Path) -> None:
    fixed.save(tmp_path / "m.tsm")
    executable = load(tmp_path / "m.tsm", threads=1)
    assert [spec.dims for spec in executable.inputs] == [("n", 3, 4), (2,)]
    axes = np.array([0, -1])
    assert executable.inputs[1].array is not None
    np.testing.assert_array_equal(executable.inputs[1].array, axes)
    for rows in (1, 5):
        feeds = {"x": floats(rows, 3, 4), "axes": axes}
        agree(model(REDUCE), executable.run(feeds), feeds)
        np.testing.assert_array_equal(
            executable.run({"x": feeds["x"]})["y"], executable.run(feeds)["y"]
        )


def test_the_check_beside_onnx_runtime_feeds_the_value(fixed: Artifact) -> None:
    assert fixed.manifest.tolerance is not None and fixed.manifest.tolerance["passed"] is True


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (np.array([0, 2]), r"holds \[0, 2\], and the model was compiled for \[ ?0, -1\]"),
        (np.array([0]), r"axis 0 is 1, not 2"),
        (np.array([0, -1], np.int32), "has the dtype `int32`"),
    ],
)
def test_another_value_is_refused(fixed: Artifact, axes: NDArray[np.int64], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(fixed, threads=1).run({"x": floats(1, 3, 4), "axes": axes})


def test_a_missing_input_without_a_value_is_still_missed(fixed: Artifact) -> None:
    with pytest.raises(InputError, match="input `x` is missing"):
        load(fixed, threads=1).run({"axes": np.array([0, -1])})
    with pytest.raises(InputError, match="there is no input `axis`"):
        load(fixed, threads=1).run({"x": floats(1, 3, 4), "axis": np.array([0, -1])})


def test_elements_are_compared_by_their_bits() -> None:
    """A NaN is the NaN that was given, and -0.0 is not 0.0: they may give other results."""
    text = "(float[3] x, float edge) => (float[5] y) { y = Pad(x, ends, edge) }"
    proto = model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1]), "ends"))
    artifact = compile_model(proto, values={"edge": np.float32(-0.0)}, threads=1)
    executable = load(artifact, threads=1)
    x = floats(3)
    padded = executable.run({"x": x, "edge": np.array(-0.0, np.float32)})["y"]
    assert np.signbit(padded[[0, 4]]).all()
    with pytest.raises(InputError, match="compiled for"):
        executable.run({"x": x, "edge": np.zeros((), np.float32)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axis": [1]}, "no input `axis`"),
        ({"axes": [1.5]}, "holds 1.5, which is no i64"),
        ({"axes": [2**63]}, "is no i64"),
        ({"axes": [True]}, "elements of the type `bool`"),
        ({"axes": ["1"]}, "elements of the type"),
        ({"axes": [[1], [1, 2]]}, "no array"),
        ({"axes": [[1]]}, "it has 1 axes, `values` gives it 2"),
        ({"axes": [3]}, "axis 3 is not one of 3"),
        ({"axes": np.zeros(1 << 18, np.int64)}, "the limit is"),
    ],
)
def test_what_is_no_value_of_the_input_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(FrontendError, match=message):
        import_model(model(REDUCE), values=values)


def test_values_are_not_for_graphs() -> None:
    graph = import_model(model(REDUCE), values={"axes": [1]})
    with pytest.raises(FrontendError, match="apply to a file"):
        import_model(graph, values={"axes": [1]})


@pytest.mark.parametrize(
    ("text", "names"), [(REDUCE, ("axes",)), (SHAPED, ("k",)), (STAGED, ("rounds",))]
)
def test_the_refusal_names_the_inputs_that_decide(text: str, names: tuple[str, ...]) -> None:
    with pytest.raises(UndecidedError) as caught:
        import_model(model(text))
    assert caught.value.inputs == names
    assert f"--value {names[0]}=" in str(caught.value)


def test_one_executable_for_each_value() -> None:
    prepared = onnx_backend.prepare(model(REDUCE), threads=1)
    assert prepared.deciding == ("axes",) and not prepared.executables
    for rows, axes, count in ((2, [1], 1), (3, [1], 1), (2, [0, 2], 2), (2, [1], 2)):
        feeds = {"x": floats(rows, 3, 4), "axes": np.array(axes)}
        (y,) = prepared.run([feeds["x"], feeds["axes"]])
        agree(model(REDUCE), {"y": y}, feeds)
        assert len(prepared.executables) == count


def test_a_shape_that_is_worked_out_from_an_input() -> None:
    prepared = onnx_backend.prepare(model(SHAPED), threads=1)
    assert prepared.deciding == ("k",)
    for k in ([1, 4, 2], [0, 1, 3]):
        feeds = {"x": floats(12), "k": np.array(k, np.float32), "bias": floats(12)}
        (y,) = prepared.run(feeds)
        agree(model(SHAPED), {"y": y}, feeds)


def test_inputs_are_asked_for_one_after_the_other() -> None:
    prepared = onnx_backend.prepare(model(STAGED), threads=1)
    assert prepared.deciding == ("rounds",)
    for rounds, times in ((2, 3), (2, 4), (0, 1)):
        feeds = {"rounds": np.array(rounds), "x": floats(4), "times": np.array([times])}
        (y,) = prepared.run(feeds)
        agree(model(STAGED), {"y": y}, feeds)
    assert list(prepared.deciding) == ["rounds", "times"]
    assert len(prepared.executables) == 3


def test_a_model_that_needs_no_value_is_compiled_at_once() -> None:
    prepared = onnx_backend.prepare(
        model("(float[n] x) => (float[n] y) { y = Relu(x) }"), threads=1
    )
    assert prepared.deciding == () and len(prepared.executables) == 1
    (y,) = prepared.run(np.array([-1, 2], np.float32))
    assert y.tolist() == [0, 2]


def test_what_no_value_helps_is_refused_when_it_is_prepared() -> None:
    with pytest.raises(FrontendError, match="corners cannot be aligned"):
        onnx_backend.prepare(_resized([1, 1, 0.6, 0.6]), threads=1)


def _resized(scales: list[float]) -> ModelProto:
    text = """(float[1,1,4,4] x) => (float[a,b,c,d] y) {
        y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , scales) }"""
    found = model(text)
    array = np.array(scales, np.float32)
    found.graph.initializer.append(onnx.numpy_helper.from_array(array, "scales"))
    return found


def test_corners_are_aligned_where_the_size_is_whole() -> None:
    feeds = {"x": floats(1, 1, 4, 4)}
    (y,) = onnx_backend.run_model(_resized([1, 1, 1.25, 2]), feeds, threads=1)
    agree(_resized([1, 1, 1.25, 2]), {"y": y}, feeds)


@pytest.mark.filterwarnings("ignore")  # the suite's own, while it makes its cases
def test_the_interface_of_onnx() -> None:
    """The suite of the package `onnx`, as it runs over any backend."""
    from onnx.backend.test import BackendTest

    suite = BackendTest(onnx_backend, __name__)
    suite.include("test_reduce_sum_do_not_keepdims_random_cpu")
    suite.include("test_relu_cpu")
    ran = 0
    for case in suite.test_cases.values():
        for name in ("test_reduce_sum_do_not_keepdims_random_cpu", "test_relu_cpu"):
            if hasattr(case, name):
                getattr(case(name), name)()
                ran += 1
    assert ran == 2


@pytest.mark.parametrize(
    ("device", "takes"), [("CPU", True), ("CPU:0", True), ("CUDA", False), ("", False)]
)
def test_devices(device: str, takes: bool) -> None:
    assert onnx_backend.supports_device(device) is takes
    assert onnx_backend.is_compatible(model(REDUCE), device) is takes
    if not takes:
        with pytest.raises(InputError, match="no device"):
            onnx_backend.prepare(model(REDUCE), device)


def test_inputs_that_do_not_fit_are_refused() -> None:
    prepared = onnx_backend.prepare(model(REDUCE), threads=1)
    with pytest.raises(InputError, match="1 inputs are given, not 2"):
        prepared.run([floats(1, 3, 4)])
    with pytest.raises(InputError, match="input `axes` is missing"):
        prepared.run({"x": floats(1, 3, 4)})


def test_the_command_line(cli: Cli, tmp_path: Path) -> None:  # noqa: F811  # the fixture
    source, out = tmp_path / "m.onnx", tmp_path / "m.tsm"
    onnx.save(model(REDUCE), source)
    refused = cli("compile", source, "-o", out)
    assert refused.code == 1 and "--value axes=" in refused.err
    made = cli("compile", source, "-o", out, "--value", "axes=[1]")
    assert made.code == 0, made.err
    assert "axes int64[1] = [1]" in cli("inspect", out).out
    feeds = {"x": floats(2, 3, 4)}
    np.savez(tmp_path / "in.npz", x=feeds["x"])
    ran = cli("run", out, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    assert ran.code == 0, ran.err
    agree(model(REDUCE), dict(np.load(tmp_path / "out.npz")), feeds | {"axes": np.array([1])})
    assert cli("verify", out, source).code == 0
    assert cli("opt", source, "--value", "axes=[1]").code == 0
    wrong = cli("compile", source, "-o", out, "--value", "axes=1..2")
    assert wrong.code == 2 and "is not a value" in wrong.err
