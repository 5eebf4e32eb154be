"""Makes `benchmarks` importable under plain `pytest`: it is in the checkout, never in the wheel."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: an installed tunesmith keeps its precedence over the checkout's.
_ROOT = str(Path(__file__).parents[2])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)
