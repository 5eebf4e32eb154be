"""Search over the knobs of schedule templates, and the store of what was measured."""
