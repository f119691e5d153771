"""Decode image files, resize and crop them.

The result is bit-identical to torchvision's Resize and CenterCrop on PIL images.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, floor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...core.errors import ImageSetError
from ...core.extras import installation
from ...core.records import Crop, Range
from ...core.untrusted import words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Photo

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
"""Formats that Pillow decodes here. DICOM is decoded by pydicom."""
SUFFIXES = (".dcm", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
"""File extensions of images."""

EXACT = (64, 128, 256, 512)
"""Lengths of the resized shorter side for which resizing a part of the image is bit-identical to resizing the whole.
Pillow stores the box of the part in float32, which is only exact for a division by a power of two."""

REACH = {"bilinear": 1, "bicubic": 2}
"""Radius of each interpolation filter, in pixels of the smaller image."""


@contextmanager
def pillow_warnings() -> Iterator[None]:
    """Configure the warnings of Pillow and pydicom while files are decoded.

    Warning filters apply to the whole process, so enter this context before starting threads.
    """
    from PIL import Image

    with warnings.catch_warnings():
        # Damaged EXIF data, unusual palettes and DICOM tags do not affect the pixels, so their warnings are ignored.
        # Images above Pillow's size limit are rejected.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.filterwarnings("ignore", category=UserWarning, module="pydicom")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def cropped(data: bytes, crop: Crop) -> tuple[NDArray[np.uint8], tuple[int, int], Clipping | None]:
    """Decode, resize and crop a JPEG, PNG, TIFF, WebP or DICOM file.

    Only the first frame is used. EXIF rotation is not applied, as in torchvision.

    Returns:
        The image, (3, size, size) uint8; the width and height of the original; the clipping statistics of an image with
        more than 8 bits, otherwise None.

    Raises:
        BrokenImageError: The file is truncated, has an unsupported format, exceeds Pillow's pixel limit, or has more
            than 8 bits but the crop has no range. See also `planar`.
    """
    photo, clipping = _any_file(data, crop.range)
    return planar(photo, crop), photo.size, clipping


def _any_file(data: bytes, levels: Range | None) -> tuple[Photo, Clipping | None]:
    """Decode a file of any supported format."""
    from PIL import Image, UnidentifiedImageError

    try:
        samples = tiff_samples(data) if data.startswith(TIFF) else None
        if data[128:132] == DICOM:
            samples = dicom_samples(data)
        if samples is None:
            with Image.open(io.BytesIO(data), formats=FORMATS) as photo:
                _refuse_more_pixels_than_allowed(*photo.size)
                samples = deep_samples(data, photo)
                if samples is None:
                    photo.load()
                    return photo if photo.mode == "RGB" else photo.convert("RGB"), None
        pixels, clipping = scale(samples, levels)
        return photo_of(pixels), clipping
    except (BrokenImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenImageError(f"not a {', '.join(FORMATS)} file" if data else "an empty file") from None
    except Exception as error:  # decoders raise many different exceptions for damaged files
        raise BrokenImageError(words_of(error)) from error


def photo_of(array: NDArray[np.uint8]) -> Photo:
    """Convert a (height, width, 3) uint8 array to a PIL image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array))


def planar(photo: Photo, crop: Crop) -> NDArray[np.uint8]:
    """Resize and crop an image, (3, size, size) uint8 in [0, 255].

    The length of the longer side is truncated to an integer, and offsets are rounded half to even, as in torchvision.

    Raises:
        BrokenImageError: The resized image would exceed Pillow's pixel limit, or the crop is `fixed` and the image has
            another size.
    """
    placement = _place(*photo.size, crop)
    if (placement.width, placement.height) == photo.size:
        photo = photo.crop(placement.box)
    elif photo.height - placement.height > max(0, 2 * (photo.width - placement.width)):
        # Pillow resizes the width first and then the height, except in this case, where the height shrinks by more than
        # twice as many pixels as the width. `_resized_crop` only reproduces the usual order.
        photo = _resized(photo, placement.width, placement.height, crop.interpolation).crop(placement.box)
    else:
        photo = _resized_crop(photo, placement, crop.interpolation)
    return np.stack([np.asarray(band) for band in photo.split()])


class _Placement(NamedTuple):
    """Size of the resized image, and position and size of the square crop in it."""

    width: int
    height: int
    x: int
    y: int
    size: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return (self.x, self.y, self.x + self.size, self.y + self.size)


def _place(width: int, height: int, crop: Crop) -> _Placement:
    """Compute the size of the resized image and the position of the crop."""
    size, resize = crop.size, crop.resize
    if crop.fixed and (width, height) != (size, size):
        raise BrokenImageError(f"{width} x {height} pixels, not {size} x {size}")
    long = resize if crop.squash else int(resize * max(width, height) / min(width, height))
    width, height = (resize, long) if width <= height else (long, resize)
    _refuse_more_pixels_than_allowed(width, height)
    return _Placement(width, height, round((width - size) / 2), round((height - size) / 2), size)


def _resized_crop(photo: Photo, placement: _Placement, interpolation: str) -> Photo:
    """Resize and crop an image without computing most of the pixels that the crop discards.

    The result is bit-identical to resizing the whole image. The width is resized before the height, as in Pillow.
    """
    width, height, x, y, size = placement
    first, end = 0, photo.height
    exact = height < width and height in EXACT
    if exact:
        scale = photo.height / height
        # A row of the result is a weighted mean of the rows within max(scale, 1), or twice that for bicubic
        # interpolation.
        margin = ceil(REACH[interpolation] * max(scale, 1)) + 1
        first, end = max(0, floor(y * scale) - margin), min(end, ceil((y + size) * scale) + margin)
        photo = photo.crop((0, first, photo.width, end))
    if width <= height and width in EXACT:
        across = photo.width / width
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
    # Check the size before and after resizing. Resizing the shorter side of a thin strip can make its longer side huge.
    """Raise BrokenImageError for an image above Pillow's pixel limit."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BrokenImageError(f"{width} x {height} pixels, more than Pillow's limit of {limit}")


# Images with more than 8 bits per sample: 16-bit or floating-point grayscale and RGB. A range converts samples to
# pixels:
#     pixel = round(255 clip((sample - LOW) / (HIGH - LOW), 0, 1))
# LOW is black and HIGH is white, in the units of the file. With `percentiles` they are the 1st and 99th percentile of
# each image. The range does not apply to images with 8 bits.

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of grayscale images with more than 8 bits."""
PNG, TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""First bytes of PNG files, and of TIFF files, which have four variants."""
UNCOMPRESSED, WHITE_IS_ZERO, ALPHA = 1, 0, (1, 2)
"""Values of the TIFF tags Compression, PhotometricInterpretation and ExtraSamples."""
DICOM, DEFLATED = b"DICM", b"1.2.840.10008.1.2.1.99\0"
"""Bytes 128 to 131 of a DICOM file, and the transfer syntax of deflated files. Those are rejected, because they can
expand to any size."""
ENDS = (1, 99)
"""Percentiles that `percentiles` maps to black and white."""
GREY, RGB = 0, 2
"""Color types of PNG files without transparency."""


class Clipping(NamedTuple):
    """Statistics of the samples of one image with more than 8 bits."""

    share: float
    """Proportion of samples below black or above white."""
    minimum: float
    """Smallest sample."""
    maximum: float
    """Largest sample."""


class BrokenImageError(ImageSetError):
    """A file that is not an image or cannot be used.

    The message contains only the reason, because the caller knows the file name. `advice` says what the user can do
    about it.
    """

    def __init__(self, reason: str, advice: str = "repair it") -> None:
        super().__init__(reason)
        self.advice = advice


def deep_samples(data: bytes, photo: Photo) -> NDArray[Any] | None:
    """Return the samples of an image that Pillow opened, (height, width) or (height, width, 3), or None if they have 8
    bits.
    """
    if data.startswith(PNG) and data[24] == 16:
        if data[25] not in (GREY, RGB):
            raise BrokenImageError("it has 16 bits and transparency", "save it without transparency")
        return _png_colours(data, photo.width, photo.height) if data[25] == RGB else np.asarray(photo)
    return np.asarray(photo) if photo.mode in DEEP_MODES else None


def tiff_samples(data: bytes) -> NDArray[Any] | None:
    """Return the samples of a TIFF file, (height, width) or (height, width, 3), or None if they have 8 bits.

    Raises:
        BrokenImageError: The file has several pages, an unsupported number of channels, too many pixels, compressed RGB
            with more than 8 bits, or white as its smallest value. Damaged files raise exceptions of tifffile and
            Pillow.
    """
    from PIL import Image

    try:
        from tifffile import TiffFile
    except ImportError:
        raise BrokenImageError("it is TIFF, which tifffile reads", installation("tifffile")) from None
    # tifffile logs messages about damaged files, which would mix with the output of a command.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise BrokenImageError(f"it has {len(tiff.pages)} pages", "save each page as a file")
        page: Any = tiff.pages[0]
        is_deep = page.bitspersample > 8
        refuse_channels(page.samplesperpixel - sum(kind in ALPHA for kind in page.extrasamples if not is_deep))
        _refuse_more_pixels_than_allowed(page.imagewidth, page.imagelength * page.imagedepth)
        if not is_deep:
            return None
        if page.photometric == WHITE_IS_ZERO:
            raise BrokenImageError("its least sample is white", "save it with black as the least")
        if page.compression == UNCOMPRESSED:
            samples: NDArray[Any] = page.asarray()
            return np.moveaxis(samples, 0, -1) if page.axes.startswith("S") else samples
    # libtiff, which Pillow uses, stops decompressing at the end of the image, so a malicious file cannot expand without
    # limit. But it reads RGB with 8 bits only.
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as photo:
        if photo.mode not in DEEP_MODES:
            raise BrokenImageError("it is compressed RGB of more than 8 bits", "save it without compression")
        return np.asarray(photo)


def dicom_samples(data: bytes) -> NDArray[Any]:
    """Return the samples of a DICOM file, (height, width), in the units that it specifies, such as Hounsfield units.

    Raises:
        BrokenImageError: The file is not a single grayscale image, is deflated, or has too many pixels. Damaged files
            raise exceptions of pydicom.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels.processing import apply_modality_lut
    except ImportError:
        raise BrokenImageError("it is DICOM, which pydicom reads", installation("pydicom")) from None
    if DEFLATED in data[:2048]:
        raise BrokenImageError("it is deflated DICOM", "save it in another transfer syntax")
    dataset = dcmread(io.BytesIO(data))
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise BrokenImageError(f"it has {dataset.NumberOfFrames} frames", "save each frame as a file")
    if dataset.PhotometricInterpretation != "MONOCHROME2":
        raise BrokenImageError(f"it is {dataset.PhotometricInterpretation}", "save it as MONOCHROME2")
    _refuse_more_pixels_than_allowed(dataset.Columns, dataset.Rows)
    return np.asarray(apply_modality_lut(dataset.pixel_array, dataset))


def refuse_channels(channels: int) -> None:
    """Raise BrokenImageError unless the number of channels is 1 or 3."""
    if channels not in (1, 3):
        raise BrokenImageError(f"it has {channels} channels", "save one of them, or three as RGB")


def scale(samples: NDArray[Any], levels: Range | None) -> tuple[NDArray[np.uint8], Clipping | None]:
    """Convert samples to a (height, width, 3) uint8 image, and return statistics of the clipping.

    Samples with 8 bits are returned unchanged, with None instead of statistics.

    Args:
        samples: (height, width) or (height, width, 3) array of any numeric type.
        levels: Values that become black and white, or `percentiles`.

    Raises:
        BrokenImageError: The samples have more than 8 bits but `levels` is None, some are not finite, or both
            percentiles are equal.
    """
    if samples.ndim not in (2, 3) or 0 in samples.shape:
        raise BrokenImageError(f"it is an array of {samples.shape}", "give (height, width) or (height, width, 3)")
    refuse_channels(1 if samples.ndim == 2 else samples.shape[2])
    if samples.dtype == np.uint8:
        return _three_channels(samples), None
    if not np.isfinite(samples).all():
        raise BrokenImageError("some of its samples are no numbers", "replace them")
    minimum, maximum = samples.min(), samples.max()
    if levels is None:
        raise BrokenImageError(
            f"it holds {samples.dtype.name} from {minimum:g} to {maximum:g}",
            "pack the set with --range LOW,HIGH, its black and white, or --range percentiles",
        )
    low, high = np.percentile(samples, ENDS) if isinstance(levels, str) else levels
    if low == high:
        raise BrokenImageError(f"its 1st and 99th percentile are both {low:g}", "pack the set with --range LOW,HIGH")
    shares = ((samples.astype(np.float64) - low) / (high - low)).clip(0, 1)
    clipping = Clipping(float(((samples < low) | (samples > high)).mean()), float(minimum), float(maximum))
    return _three_channels(np.rint(255 * shares).astype(np.uint8)), clipping


def _three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image with three channels. Grayscale images are repeated."""
    return np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3))


def _png_colours(data: bytes, width: int, height: int) -> NDArray[np.uint16]:
    """Decode a 16-bit RGB PNG file, (height, width, 3). Pillow would reduce it to 8 bits.

    Each byte is stored as the difference from a prediction, which is computed from the bytes to the left, above, and
    above left (PNG specification, section 9). A pixel therefore depends only on pixels of earlier diagonals, so each
    diagonal is computed with array operations.
    """
    if data[28]:
        raise BrokenImageError("it has 16 bits and is interlaced", "save it without interlacing")
    packed, at = bytearray(), len(PNG)
    while data[at + 4 : at + 8] != b"IEND":
        length = int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
        if at >= len(data):
            raise BrokenImageError("it is cut off")
    row_bytes = 1 + 6 * width
    unpacked = zlib.decompressobj().decompress(bytes(packed), height * row_bytes)
    rows = np.frombuffer(unpacked, np.uint8).reshape(height, row_bytes)
    kinds, residuals = rows[:, 0], rows[:, 1:].reshape(height, width, 6)
    # The PNG specification defines the pixels left of and above the image as 0.
    values = np.zeros((height + 1, width + 1, 6), np.int16)
    for diagonal in range(width + height - 1):
        y = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        x = diagonal - y
        west, north, corner = values[y + 1, x], values[y, x + 1], values[y, x]
        to_west, to_north, to_corner = abs(north - corner), abs(west - corner), abs(west + north - 2 * corner)
        nearest_of_two = np.where(to_north <= to_corner, north, corner)
        nearest = np.where((to_west <= to_north) & (to_west <= to_corner), west, nearest_of_two)
        predictions = [np.zeros_like(west), west, north, (west + north) // 2, nearest]
        values[y + 1, x + 1] = (residuals[y, x] + np.choose(kinds[y][:, None], predictions)) & 255
    return np.ascontiguousarray(values[1:, 1:].astype(np.uint8)).view(">u2").astype(np.uint16)
