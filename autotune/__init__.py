"""Search over the knobs of schedule templates. Nothing is here yet: templates choose by analysis."""
