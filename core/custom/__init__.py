"""Custom probes, metrics and models: loading, identifying and calling a user's functions."""
