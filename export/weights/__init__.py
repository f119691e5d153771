"""Weights: where they are published, how they are fetched, read without trust, and named as an architecture does."""
