"""Altair charts of result frames."""
