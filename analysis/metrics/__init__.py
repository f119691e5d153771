"""Metrics of a checkpoint on an image set, and its accuracy on benchmarks."""
