"""How images are normalized before a network sees them."""

from __future__ import annotations

Channels = tuple[float, float, float]
"""A number for each of red, green and blue."""
Normalization = tuple[Channels, Channels]
"""Mean and standard deviation per RGB channel, for images in [0, 1]."""
NORMALIZATIONS: dict[str, Normalization] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> normalization."""


def normalization_name(normalization: Normalization) -> str:
    """The name of a normalization, or its numbers where it has none."""
    mean, std = normalization
    names = (name for name, numbers in NORMALIZATIONS.items() if numbers == normalization)
    return next(names, f"mean {', '.join(map(repr, mean))}; std {', '.join(map(repr, std))}")
