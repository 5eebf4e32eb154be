"""What holds for all tests: hypothesis is reproducible, and never fails because CI is slow."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tunesmith", derandomize=True, deadline=None)
settings.load_profile("tunesmith")
