"""The error for one image file, which those who read many of them catch."""

from __future__ import annotations

from ...core.errors import ImageSetError


class BrokenImageError(ImageSetError):
    """A file that is no image after all, or an unusable one. The message is the reason alone: callers know the name."""

    def __init__(self, reason: str, advice: str = "repair it") -> None:
        super().__init__(reason)
        self.advice = advice
