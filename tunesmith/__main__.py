"""`python -m tunesmith`."""

from __future__ import annotations

from tunesmith.cli import main

main()
