"""Engines: each module opens sessions that run models with one inference library."""
