"""Every pinned ONNX file of the real world, beside ONNX Runtime, at several sizes."""
