"""`python -m benchmarks.board`."""

from __future__ import annotations

import sys

from benchmarks.board.cli import main

if __name__ == "__main__":
    sys.exit(main())
