"""Image files to pixels: what torchvision's Resize and CenterCrop make of a Pillow image, to the last bit."""

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
SUFFIXES = (".dcm", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")

EXACT = (64, 128, 256, 512)
"""Shorter sides of which Pillow resizes a part to the very bits of the whole: boxes are in float32, and a division by a
power of two is exact there."""

REACH = {"bilinear": 1, "bicubic": 2}
"""The reach of each filter, in pixels of the smaller picture."""


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
    photo, clipping = _any_file(data, crop.range)
    return planar(photo, crop), photo.size, clipping


def _any_file(data: bytes, levels: Range | None) -> tuple[Photo, Clipping | None]:
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
    except Exception as error:  # a damaged file fails in as many ways as there are formats and tags
        raise BrokenImageError(words_of(error)) from error


def photo_of(array: NDArray[np.uint8]) -> Photo:
    """A (height, width, 3) uint8 array as an RGB image."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array))


def planar(photo: Photo, crop: Crop) -> NDArray[np.uint8]:
    """The cropped photograph, (3, size, size) uint8, 0 to 255.

    The longer side is cut to an integer and offsets are rounded half to even, as torchvision does.
    Raises BrokenImageError where resizing would exceed Pillow's pixel limit, or a `fixed` crop does not fit.
    """
    placement = _place(*photo.size, crop)
    if (placement.width, placement.height) == photo.size:
        photo = photo.crop(placement.box)
    elif photo.height - placement.height > max(0, 2 * (photo.width - placement.width)):
        # Pillow resizes in width first and then in height, unless that shrinks by more than twice as many pixels.
        photo = _resized(photo, placement.width, placement.height, crop.interpolation).crop(placement.box)
    else:
        photo = _resized_crop(photo, placement, crop.interpolation)
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


def _resized_crop(photo: Photo, placement: _Placement, interpolation: str) -> Photo:
    """Resize in width, then in height, and crop: bit for bit, without most of what the crop drops."""
    width, height, x, y, size = placement
    first, end = 0, photo.height
    exact = height < width and height in EXACT
    if exact:
        scale = photo.height / height
        # A row is a mean of those that are less than max(scale, 1) away; bicubic, than twice that.
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
    # A thin strip grows with its shorter side, so the limit holds before and after the resize.
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise BrokenImageError(f"{width} x {height} pixels, more than Pillow's limit of {limit}")


# Samples of more than 8 bits: grey and RGB of 16 bits or floating point, and how a range makes pixels of them.
#
#     pixel = round(255 clip((sample - LOW) / (HIGH - LOW), 0, 1))
#
# LOW is black and HIGH white, in the file's own units. With `percentiles` they are the 1st and 99th percentile of each
# image. Pictures of 8 bits have a range already, and stay as they are.

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of grey pictures that hold more than 8 bits."""
PNG, TIFF = b"\x89PNG\r\n\x1a\n", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""The first bytes of files of each format; a TIFF begins in one of four ways."""
UNCOMPRESSED, WHITE_IS_ZERO, ALPHA = 1, 0, (1, 2)
"""Values of the tags Compression, PhotometricInterpretation and ExtraSamples of a TIFF."""
DICOM, DEFLATED = b"DICM", b"1.2.840.10008.1.2.1.99\0"
"""Bytes after the first 128 of a DICOM file, and the transfer syntax that may expand to any length."""
ENDS = (1, 99)
"""Percentiles that `percentiles` takes as black and white."""
GREY, RGB = 0, 2
"""Colour types of a PNG without transparency."""


class Clipping(NamedTuple):
    """The samples of one picture of more than 8 bits."""

    share: float
    """The share of them that lies below black or above white."""
    minimum: float
    maximum: float


class BrokenImageError(ImageSetError):
    """A file that is no image after all, or an unusable one. The message is the reason alone: callers know the name."""

    def __init__(self, reason: str, advice: str = "repair it") -> None:
        super().__init__(reason)
        self.advice = advice


def deep_samples(data: bytes, photo: Photo) -> NDArray[Any] | None:
    """The samples of a PNG that Pillow opened, (height, width) or (height, width, 3); None where they have 8 bits."""
    if data.startswith(PNG) and data[24] == 16:
        if data[25] not in (GREY, RGB):
            raise BrokenImageError("it has 16 bits and transparency", "save it without transparency")
        return _png_colours(data, photo.width, photo.height) if data[25] == RGB else np.asarray(photo)
    return np.asarray(photo) if photo.mode in DEEP_MODES else None


def tiff_samples(data: bytes) -> NDArray[Any] | None:
    """The samples of a TIFF file of one page, (height, width) or (height, width, 3); None where they have 8 bits.

    Raises BrokenImageError for several pages, another number of channels, too many pixels, compressed RGB, and samples
    of which the least is white; what tifffile and Pillow raise for a damaged file.
    """
    from PIL import Image

    try:
        from tifffile import TiffFile
    except ImportError:
        raise BrokenImageError("it is TIFF, which tifffile reads", installation("tifffile")) from None
    # Its lines on damaged files would stand between those of a command.
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
    # Pillow's library stops at the end of the picture, whatever a compressed part expands to; but it has RGB of 8 bits.
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as photo:
        if photo.mode not in DEEP_MODES:
            raise BrokenImageError("it is compressed RGB of more than 8 bits", "save it without compression")
        return np.asarray(photo)


def dicom_samples(data: bytes) -> NDArray[Any]:
    """(height, width): the samples of a DICOM file in the units that it states, such as Hounsfield's.

    Raises BrokenImageError for anything but one grey picture of not too many pixels, and what pydicom raises for a
    damaged file.
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
    """BrokenImageError for pictures that are neither grey nor RGB."""
    if channels not in (1, 3):
        raise BrokenImageError(f"it has {channels} channels", "save one of them, or three as RGB")


def scale(samples: NDArray[Any], levels: Range | None) -> tuple[NDArray[np.uint8], Clipping | None]:
    """(height, width, 3) uint8 of samples, (height, width) or (height, width, 3), and their clipping.

    Samples of 8 bits stay as they are, and have none. Raises BrokenImageError where they have more and there is no
    range, and where some are no numbers or `percentiles` are one value.
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
    return np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3))


def _png_colours(data: bytes, width: int, height: int) -> NDArray[np.uint16]:
    """(height, width, 3) of an RGB PNG of 16 bits, of which Pillow keeps 8.

    A byte is stored less a prediction by those to the left of it, above it, and above that one (PNG, section 9). Pixels
    on one diagonal depend on earlier diagonals alone, so that each diagonal is computed at once.
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
    # A column to the left and a row above are 0, as the format has it.
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
