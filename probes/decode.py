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

EXACT = (64, 128, 256, 512)
"""Shorter sides of which Pillow resizes a part to the very bits of the whole: boxes are in float32, and a division by a
power of two is exact there."""

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
    fixed: bool = False
    """Photographs have size x size pixels already: any other is broken."""
    fast: bool = False
    """Resize with torch, whose weights are rounded to 16 bits: a third of the time, and values that differ by 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise UsageError(f"size {self.size} must be from 1 to resize, {self.resize}: crops come after the resize")

    def __str__(self) -> str:
        """What is done to the pixels, in words: part of an image set's digest."""
        how = "bilinear, antialiased, fast" if self.fast else "bilinear, antialiased"
        return f"RGB, shorter side to {self.resize} ({how}), centre crop {self.size}"


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Pillow's warnings while files are decoded. Filters belong to the process: enter before threads start."""
    from PIL import Image

    with warnings.catch_warnings():
        # Damaged EXIF or odd palettes do not touch the pixels; a size beyond Pillow's limit is refused.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def framed(data: bytes, frame: Frame) -> NDArray[np.uint8]:
    """The framed photograph of a JPEG, PNG or WebP file, (3, size, size) uint8: see `decode` and `planar`."""
    if not frame.fast:
        return planar(decode(data), frame)
    pixels = _plain_jpeg(data, "RGB")
    return _planar_fast(np.array(_any_file(data)) if pixels is None else pixels, frame)


def decode(data: bytes) -> Photo:
    """The first frame of a JPEG, PNG or WebP file as an RGB image; like torchvision, EXIF rotation is not applied.

    Raises BrokenImageError where the file is truncated, of another format, or larger than Pillow's pixel limit.
    """
    import pyarrow as pa
    from PIL import Image

    pixels = _plain_jpeg(data, "RGBA")
    if pixels is None:
        return _any_file(data)
    # Pillow has RGB in four bytes too: nothing is copied.
    arrow = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 4)
    return Image.fromarrow(arrow, "RGB", (pixels.shape[1], pixels.shape[0]))


def _plain_jpeg(data: bytes, bands: str) -> NDArray[np.uint8] | None:
    """(height, width, bands) of a colour JPEG that is whole, by libjpeg-turbo without Pillow's detours; else None.

    Pillow has the same library with the same settings, so the pixels are the same.
    """
    import simplejpeg
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours != "YCbCr" or (limit is not None and width * height > limit):
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, bands)
    except ValueError:
        return None
    return pixels


def _any_file(data: bytes) -> Photo:
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
    """The framed photograph, (3, size, size) uint8, 0 to 255; `frame.fast` does not matter.

    The longer side is cut to an integer and offsets are rounded half to even, as torchvision does.
    Raises BrokenImageError where resizing would exceed Pillow's pixel limit, or a `fixed` frame does not fit.
    """
    width, height, left, top = _placed(photo.width, photo.height, frame)
    size = frame.size
    if (width, height) == photo.size:
        photo = photo.crop((left, top, left + size, top + size))
    else:
        photo = _resized_crop(photo, width, height, left, top, size)
    return np.stack([np.asarray(band) for band in photo.split()])


def _planar_fast(pixels: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """`planar` of (height, width, 3) uint8, resized by torch."""
    import torch
    from torch.nn.functional import interpolate

    width, height, left, top = _placed(pixels.shape[1], pixels.shape[0], frame)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized: NDArray[np.uint8] = interpolate(planes, (height, width), mode="bilinear", antialias=True)[0].numpy()
    return np.ascontiguousarray(resized[:, top : top + frame.size, left : left + frame.size])


def _placed(width: int, height: int, frame: Frame) -> tuple[int, int, int, int]:
    """Width and height after the resize, then left and top of the crop."""
    size, resize = frame.size, frame.resize
    if frame.fixed and (width, height) != (size, size):
        raise BrokenImageError(f"{width} x {height} pixels, not {size} x {size}")
    long = int(resize * max(width, height) / min(width, height))
    width, height = (resize, long) if width <= height else (long, resize)
    _refuse_more_pixels_than_allowed(width, height)
    return width, height, round((width - size) / 2), round((height - size) / 2)


def _resized_crop(photo: Photo, width: int, height: int, left: int, top: int, size: int) -> Photo:
    """photo.resize((width, height)).crop((left, top, left + size, top + size)), bit for bit, with less work."""
    from PIL.Image import Resampling

    # Pillow resizes in width first and then in height, unless that shrinks by more than twice as many pixels. Between
    # the two, what the crop drops on the left and right can go.
    old_width, old_height = photo.size
    box: tuple[float, float, float, float]
    if old_height - height > max(0, 2 * (old_width - width)):
        return photo.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size))
    if old_width <= old_height and width in EXACT:
        box = (left * old_width / width, 0, (left + size) * old_width / width, old_height)
        photo = photo.resize((size, old_height), Resampling.BILINEAR, box)
    else:
        photo = photo.resize((width, old_height), Resampling.BILINEAR).crop((left, 0, left + size, old_height))
    if old_height < old_width and height in EXACT:
        box = (0, top * old_height / height, size, (top + size) * old_height / height)
        return photo.resize((size, size), Resampling.BILINEAR, box)
    return photo.resize((size, height), Resampling.BILINEAR).crop((0, top, size, top + size))


def _refuse_more_pixels_than_allowed(width: int, height: int) -> None:
    # A thin strip grows with its shorter side, so the limit holds before and after the resize.
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BrokenImageError(f"{width} x {height} pixels, more than Pillow's limit of {limit}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
