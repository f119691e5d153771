"""Custom probes, metrics and models: load, identify and call user-supplied functions."""
