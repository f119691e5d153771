"""Altair charts of frames."""
