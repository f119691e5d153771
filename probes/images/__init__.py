"""Image sets: images decoded once to uint8 arrays of a fixed size, with labels and clusters."""
