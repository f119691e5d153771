"""Perturbations of images, and the image sets they are applied to."""
