"""Biases against generalization, over models."""
