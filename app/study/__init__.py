"""A study, from its file to its rows: read, resolve, plan, run, gate, verify."""

GATE_IMAGES = 1000
"""Images of each set that a gate takes unless it is told otherwise."""
