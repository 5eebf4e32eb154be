"""ONNX's own backend suite over whole engines: `make conformance`, `docs/conformance.md`.

`cases.txt` freezes what the suite holds; `known.txt` says why the cases that do not pass do not.
"""
