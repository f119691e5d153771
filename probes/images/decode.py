"""Image files to pixels: what torchvision's Resize and CenterCrop make of a Pillow image, to the last bit."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...core.records import Crop, Range
from ...core.untrusted import words_of
from .samples import DICOM, TIFF, BrokenImageError, Clipping, deep_samples, dicom_samples, scale, tiff_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Photo

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".dcm", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")

EXACT = (64, 128, 256, 512)
"""Shorter sides of which Pillow resizes a part to the very bits of the whole: boxes are in float32, and a division by a
power of two is exact there."""

REACH = {"bilinear": 1, "bicubic": 2}
"""The reach of each filter, in pixels of the smaller picture."""

Rows = Callable[[int, int], "Photo"]
"""The rows of a photograph from the first number up to the second."""


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Pillow's warnings while files are decoded. Filters belong to the process: enter before threads start."""
    from PIL import Image

    with warnings.catch_warnings():
        # Damaged EXIF, odd palettes or tags of DICOM do not touch the pixels; a size beyond Pillow's limit is refused.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def cropped(data: bytes, crop: Crop) -> tuple[NDArray[np.uint8], tuple[int, int], Clipping | None]:
    """The cropped picture of a JPEG, PNG, TIFF, WebP or DICOM file, (3, size, size) uint8, and its width and height.

    The last is the clipping of a picture of more than 8 bits. The picture is the first frame; like torchvision, EXIF
    rotation is not applied. Raises BrokenImageError where the file is truncated, of another format, larger than
    Pillow's pixel limit, or of more than 8 bits and the crop has no range, and as `planar` does.
    """
    pixels = _plain_jpeg(data)
    if pixels is None:
        photo, clipping = _any_file(data, crop.range)
        return planar(photo, crop), photo.size, clipping
    sides = (pixels.shape[1], pixels.shape[0])
    return _planar(sides, lambda top, end: _photo_of_rgba(pixels[top:end]), crop), sides, None


def _plain_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """(height, width, 4) of a colour JPEG that is whole, by libjpeg-turbo without Pillow's detours; else None.

    Pillow has the same library with the same settings, so the pixels are the same.
    """
    import simplejpeg
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours != "YCbCr" or (limit is not None and width * height > limit):
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGBA")
    except ValueError:
        return None
    return pixels


def _any_file(data: bytes, levels: Range | None) -> tuple[Photo, Clipping | None]:
    from PIL import Image, UnidentifiedImageError

    try:
        samples = tiff_samples(data, Image.MAX_IMAGE_PIXELS) if data.startswith(TIFF) else None
        if data[128:132] == DICOM:
            samples = dicom_samples(data, Image.MAX_IMAGE_PIXELS)
        if samples is None:
            with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
                _refuse_more_pixels_than_allowed(*photo.size)
                samples = deep_samples(data, photo)
                if samples is None:
                    return photo.convert("RGB"), None
        pixels, clipping = scale(samples, levels)
        return photo_of(pixels), clipping
    except (BrokenImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImageError(f"not a {', '.join(FORMATS)} file" if data else "an empty file") from None
    except Exception as error:  # a damaged file fails in as many ways as there are formats and tags
        raise BrokenImageError(words_of(error)) from error


def photo_of(array: NDArray[np.uint8]) -> Photo:
    """A (height, width, 3) uint8 array as an RGB image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array))


def _photo_of_rgba(pixels: NDArray[np.uint8]) -> Photo:
    """(height, width, 4) uint8 as an RGB image. Pillow has RGB in four bytes too: nothing is copied."""
    import pyarrow as pa
    from PIL import Image

    arrow = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 4)
    return Image.fromarrow(arrow, "RGB", (pixels.shape[1], pixels.shape[0]))


def planar(photo: Photo, crop: Crop) -> NDArray[np.uint8]:
    """The cropped photograph, (3, size, size) uint8, 0 to 255.

    The longer side is cut to an integer and offsets are rounded half to even, as torchvision does.
    Raises BrokenImageError where resizing would exceed Pillow's pixel limit, or a `fixed` crop does not fit.
    """
    return _planar(photo.size, lambda top, end: photo.crop((0, top, photo.width, end)), crop)


def _planar(shape: tuple[int, int], rows: Rows, crop: Crop) -> NDArray[np.uint8]:
    """`planar` of a photograph whose width and height are `shape`."""
    placement = _place(*shape, crop)
    if (placement.width, placement.height) == shape:
        photo = rows(0, placement.height).crop(placement.box)
    elif shape[1] - placement.height > max(0, 2 * (shape[0] - placement.width)):
        # Pillow resizes in width first and then in height, unless that shrinks by more than twice as many pixels.
        photo = _resized(rows(0, shape[1]), placement.width, placement.height, crop.interpolation).crop(placement.box)
    else:
        photo = _resized_crop(shape, rows, placement, crop.interpolation)
    return np.stack([np.asarray(band) for band in photo.split()])


class _Placement(NamedTuple):
    """The resized photograph, and the square crop in it."""

    width: int
    height: int
    x: int
    y: int
    size: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return (self.x, self.y, self.x + self.size, self.y + self.size)


def _place(width: int, height: int, crop: Crop) -> _Placement:
    """The sides that the crop resizes a photograph of this width and height to, and where its square lies then."""
    size, resize = crop.size, crop.resize
    if crop.fixed and (width, height) != (size, size):
        raise BrokenImageError(f"{width} x {height} pixels, not {size} x {size}")
    long = resize if crop.squash else int(resize * max(width, height) / min(width, height))
    width, height = (resize, long) if width <= height else (long, resize)
    _refuse_more_pixels_than_allowed(width, height)
    return _Placement(width, height, round((width - size) / 2), round((height - size) / 2), size)


def _resized_crop(shape: tuple[int, int], rows: Rows, placement: _Placement, interpolation: str) -> Photo:
    """Resize in width, then in height, and crop: bit for bit, without most of what the crop drops."""
    width, height, x, y, size = placement
    first, end = 0, shape[1]
    exact = height < width and height in EXACT
    if exact:
        scale = shape[1] / height
        # A row is a mean of those that are less than max(scale, 1) away; bicubic, than twice that.
        margin = ceil(REACH[interpolation] * max(scale, 1)) + 1
        first, end = max(0, floor(y * scale) - margin), min(end, ceil((y + size) * scale) + margin)
    photo = rows(first, end)
    if width <= height and width in EXACT:
        across = shape[0] / width
        box = (x * across, 0, (x + size) * across, photo.height)
        photo = _resized(photo, size, photo.height, interpolation, box)
    else:
        photo = _resized(photo, width, photo.height, interpolation).crop((x, 0, x + size, photo.height))
    if exact:
        return _resized(photo, size, size, interpolation, (0, y * scale - first, size, (y + size) * scale - first))
    return _resized(photo, size, height, interpolation).crop((0, y, size, y + size))


def _resized(
    photo: Photo, width: int, height: int, interpolation: str, box: tuple[float, float, float, float] | None = None
) -> Photo:
    from PIL.Image import Resampling

    return photo.resize((width, height), Resampling[interpolation.upper()], box)


def _refuse_more_pixels_than_allowed(width: int, height: int) -> None:
    # A thin strip grows with its shorter side, so the limit holds before and after the resize.
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BrokenImageError(f"{width} x {height} pixels, more than Pillow's limit of {limit}")
