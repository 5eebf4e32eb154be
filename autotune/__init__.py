"""Search over the knobs of schedule templates. Nothing yet: templates choose by analysis."""
