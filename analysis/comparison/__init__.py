"""Comparisons of two runs, or of two precisions, on the same images."""
