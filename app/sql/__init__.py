"""Queries of a user: one at a time, or at a prompt."""
