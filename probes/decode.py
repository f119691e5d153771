"""Image files to pixels: what torchvision's Resize and CenterCrop make of a Pillow image, to the last bit."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageSetError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Photo

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# What Pillow's readers raise on damaged files: each format has its own.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    ArithmeticError,
    LookupError,
    struct.error,
    zlib.error,
)


class BrokenImageError(ImageSetError):
    """A file that is no image after all, or an unusable one. The message is the reason alone: callers know the name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Shorter side to `resize` pixels, then the central `size` x `size`; UsageError unless 1 <= size <= resize."""

    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise UsageError(f"size {self.size} must be from 1 to resize, {self.resize}: crops come after the resize")

    def __str__(self) -> str:
        """What is done to the pixels, in words: part of an image set's digest."""
        return f"RGB, shorter side to {self.resize} (bilinear, antialiased), centre crop {self.size}"


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Pillow's warnings while files are decoded. Filters belong to the process: enter before threads start."""
    from PIL import Image

    with warnings.catch_warnings():
        # Damaged EXIF or odd palettes do not touch the pixels; a size beyond Pillow's limit is refused.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(data: bytes) -> Photo:
    """The first frame of a JPEG, PNG or WebP file as an RGB image; like torchvision, EXIF rotation is not applied.

    Raises BrokenImageError where the file is truncated, of another format, or larger than Pillow's pixel limit.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
            _refuse_more_pixels_than_allowed(*photo.size)
            return photo.convert("RGB")
    except UnidentifiedImageError:
        raise BrokenImageError(f"not a {', '.join(FORMATS)} file" if data else "an empty file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImageError(_one_line(error)) from None
    except _DAMAGE as error:
        raise BrokenImageError(_one_line(error)) from error


def photo_of(array: NDArray[np.uint8]) -> Photo:
    """A (height, width, 3) uint8 array as an RGB image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array))


def planar(photo: Photo, frame: Frame) -> NDArray[np.uint8]:
    """The framed photograph, (3, size, size) uint8, 0 to 255.

    The longer side is cut to an integer and offsets are rounded half to even, as torchvision does.
    Raises BrokenImageError where resizing would exceed Pillow's pixel limit.
    """
    from PIL import Image

    size, resize = frame.size, frame.resize

    short, long = min(photo.size), max(photo.size)
    new_long = int(resize * long / short)
    width, height = (resize, new_long) if photo.width <= photo.height else (new_long, resize)
    if (width, height) != photo.size:
        _refuse_more_pixels_than_allowed(width, height)
        photo = photo.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    crop = np.asarray(photo.crop((left, top, left + size, top + size)))
    return np.ascontiguousarray(crop.transpose(2, 0, 1))


def _refuse_more_pixels_than_allowed(width: int, height: int) -> None:
    # A thin strip grows with its shorter side, so the limit holds before and after the resize.
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BrokenImageError(f"{width} x {height} pixels, more than Pillow's limit of {limit}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
