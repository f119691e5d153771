"""Two runs, or two precisions, on the same images."""
