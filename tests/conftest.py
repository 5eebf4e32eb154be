"""What holds for all tests: hypothesis is quick and reproducible, and no test inherits threads."""

from __future__ import annotations

import os

from hypothesis import settings

# The first load of a compiled model fixes the threads of a process; a test may ask for two.
os.environ.setdefault("TVM_NUM_THREADS", "2")

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
