"""ONNX's own backend suite over whole engines: `python -m tests.conformance`, `docs/conformance.md`.

`cases.txt` freezes what the suite holds, `known.txt` says why each case that does not pass does not.
"""
