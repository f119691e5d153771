"""Image perturbations (probes) and the image sets that they are applied to."""
