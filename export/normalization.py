"""How images are normalized before a network sees them."""

from __future__ import annotations

Channels = tuple[float, float, float]
"""A number for each of red, green and blue."""

NORMALIZATIONS: dict[str, tuple[Channels, Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> mean and standard deviation per RGB channel, for images in [0, 1]."""


def normalization_name(mean: Channels, std: Channels) -> str:
    """The name of a normalization, or its numbers where it has none."""
    names = (name for name, numbers in NORMALIZATIONS.items() if numbers == (mean, std))
    return next(names, f"mean {', '.join(map(repr, mean))}; std {', '.join(map(repr, std))}")
