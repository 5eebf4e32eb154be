"""Every engine that the board can measure, in the order of its table."""

from __future__ import annotations

from benchmarks import peers_compilers, peers_onnx, peers_ours
from benchmarks.peers_contract import Peer

__all__ = ["DYNAMIC", "PEERS", "STATIC", "TUNED"]

STATIC, DYNAMIC, TUNED = "tunesmith-static", "tunesmith", "tunesmith-tuned"

_TABLE = (
    Peer(
        DYNAMIC, "tunesmith, any size", ("apache-tvm",), peers_ours.start,
        peers_ours.load, peers_ours.build_dynamic, build_depends=("threads",), ours=True,
    ),
    Peer(
        STATIC, "tunesmith, this size", ("apache-tvm",), peers_ours.start,
        peers_ours.load, peers_ours.build_static, ours=True,
    ),
    Peer(
        TUNED, "tunesmith, this size, tuned", ("apache-tvm",), peers_ours.start,
        peers_ours.load, peers_ours.build_tuned, build_depends=("shapes", "threads"), ours=True,
    ),
    Peer(
        "onnxruntime", "ONNX Runtime", ("onnxruntime",), peers_onnx.start_onnxruntime,
        peers_onnx.load_plain,
    ),
    Peer(
        "onnxruntime-static", "ONNX Runtime, this size", ("onnxruntime",),
        peers_onnx.start_onnxruntime, peers_onnx.load_fixed,
    ),
    Peer(
        "onnxruntime-optimized", "ONNX Runtime, transformer optimizer", ("onnxruntime",),
        peers_onnx.start_onnxruntime, peers_onnx.load_optimized, peers_onnx.optimize,
        build_depends=(),
    ),
    Peer(
        "openvino", "OpenVINO", ("openvino",), peers_onnx.start_openvino, peers_onnx.load_openvino,
    ),
    Peer(
        "torch", "torch.compile", ("torch", "transformers"), peers_compilers.start_torch,
        peers_compilers.load_torch,
    ),
    Peer(
        "iree", "IREE", ("iree-base-runtime", "iree-base-compiler"), peers_compilers.start_iree,
        peers_compilers.load_iree, peers_compilers.build_iree, build_depends=("shapes",),
    ),
    Peer(
        "tvm", "TVM, stock pipeline", ("apache-tvm",), peers_compilers.start_stock,
        peers_compilers.load_stock,
    ),
)  # fmt: skip

PEERS: dict[str, Peer] = {peer.name: peer for peer in _TABLE}
