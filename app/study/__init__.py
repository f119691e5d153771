"""A study, from its file to its rows: read, resolve, plan, run, gate."""
