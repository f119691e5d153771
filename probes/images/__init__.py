"""Image sets: photographs decoded once to fixed-shape uint8, with labels and clusters."""
