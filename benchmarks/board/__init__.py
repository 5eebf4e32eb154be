"""The board: every engine on every model, measured on the same work and the same cores."""
