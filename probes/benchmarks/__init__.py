"""Benchmarks for generalization: their file layouts, and functions that check and pack them."""
