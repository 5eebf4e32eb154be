"""Models that nnsmith draws at random, over whole engines: `make generated`, `docs/generated.md`.

`models/` keeps a hundred small ones, so tests need no nnsmith; `known.txt` says why those that do
not pass do not.
"""
