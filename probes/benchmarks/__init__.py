"""The generalization benchmarks: how each is laid out, checked and packed."""
