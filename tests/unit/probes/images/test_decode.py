"""Pixels against torchvision: its own loader, Resize and CenterCrop."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from bandlens.core.records import INTERPOLATIONS, Crop
from bandlens.probes.images.decode import BrokenImageError, cropped, pillow_warnings, planar
from bandlens.probes.images.pack import pack


def torchvision_pixels(photo: Image.Image, crop: Crop) -> NDArray[np.uint8]:
    sides = (crop.resize, crop.resize) if crop.squash else crop.resize
    pixels = Compose([Resize(sides, InterpolationMode(crop.interpolation)), CenterCrop(crop.size)])(photo)
    return np.asarray(pixels).transpose(2, 0, 1)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def bytes_of(photo: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


@fuzz(40)
@example(height=68, width=68, resize=64, crop=1.0, seed=68, interpolation="bilinear", squash=False)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    resize=st.integers(1, 40) | st.sampled_from([64, 128]),
    crop=st.floats(0, 1),
    seed=st.integers(0, 99),
    interpolation=st.sampled_from(INTERPOLATIONS),
    squash=st.booleans(),
)
def test_any_shape_is_torchvisions(
    height: int, width: int, resize: int, crop: float, seed: int, interpolation: str, squash: bool
) -> None:
    photo = Image.fromarray(noise(height, width, seed=seed))
    crop = Crop(max(1, round(crop * resize)), resize, interpolation=interpolation, squash=squash)
    pixels = planar(photo, crop)
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, torchvision_pixels(photo, crop))
    jpeg = bytes_of(photo, "JPEG", quality=95, subsampling=seed % 3)
    expected = torchvision_pixels(Image.open(io.BytesIO(jpeg)), crop)
    assert np.array_equal(cropped(jpeg, crop)[0], expected)


PHOTO, SECOND_PHOTO = (Image.fromarray(noise(61, 83, seed=seed)) for seed in (1, 2))
TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {
    "progressive.jpg": bytes_of(PHOTO, "JPEG", progressive=True, subsampling=0),
    "half-sampled.jpg": bytes_of(PHOTO, "JPEG", subsampling="4:2:2"),
    "kept-as-rgb.jpg": bytes_of(PHOTO, "JPEG", keep_rgb=True),
    "grey.jpg": bytes_of(Image.fromarray(noise(60, 80, 1)), "JPEG"),
    "cmyk.jpg": bytes_of(PHOTO.convert("CMYK"), "JPEG"),
    "turned.jpg": bytes_of(PHOTO, "JPEG", exif=TURNED),
    "rgba.png": bytes_of(Image.fromarray(noise(60, 80, 4)), "PNG"),
    "grey-alpha.png": bytes_of(Image.fromarray(noise(60, 80, 2)), "PNG"),
    "bilevel.png": bytes_of(Image.fromarray(noise(60, 80, 1)).convert("1"), "PNG"),
    "palette.png": bytes_of(PHOTO.quantize(16), "PNG", transparency=bytes([0, 100, 200])),
    "rgb.tif": bytes_of(PHOTO, "TIFF", compression="tiff_lzw"),
    "grey.tiff": bytes_of(Image.fromarray(noise(60, 80, 1)), "TIFF", compression="tiff_deflate"),
    "lossy.webp": bytes_of(PHOTO, "WEBP"),
    "animated.webp": bytes_of(PHOTO, "WEBP", save_all=True, append_images=[SECOND_PHOTO], lossless=True),
    "really-a-png.jpg": bytes_of(PHOTO, "PNG"),
}


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
def test_every_mode_is_torchvisions_and_none_makes_a_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name, content in FILES.items():
        (tmp_path / "in" / name).write_bytes(content)
    images = pack(tmp_path / "in", tmp_path / "set", crop=Crop(48, 50))
    assert capfd.readouterr().err == ""
    assert images.paths == sorted(FILES)
    for name, pixels in zip(images.paths, images.pixels, strict=True):
        assert np.array_equal(pixels, torchvision_pixels(pil_loader(tmp_path / "in" / name), Crop(48, 50))), name


@fuzz(40)
@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_damaged_files_decode_or_are_broken_and_nothing_else(name: str, data: st.DataObject) -> None:
    file = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(file)))
    with pillow_warnings(), suppress(BrokenImageError):
        assert cropped(bytes(file[:cut]), Crop(4, 4))[0].shape == (3, 4, 4)


def test_reasons() -> None:
    with pytest.raises(BrokenImageError, match="not a JPEG, PNG, TIFF, WEBP file"):
        cropped(b"hello", Crop())
    with pytest.raises(BrokenImageError, match="an empty file"):
        cropped(b"", Crop())
    with pytest.raises(BrokenImageError, match="truncated"):
        cropped(FILES["progressive.jpg"][:-2000], Crop())


@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow warns of the first and refuses the second
def test_decompression_bombs_are_refused(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pillow_warnings(), pytest.raises(BrokenImageError, match="pixels"):
        cropped(bomb, Crop())


def test_a_strip_that_resizing_would_blow_up_is_refused() -> None:
    with pytest.raises(BrokenImageError, match="256 x 5120000 pixels, more than"):
        planar(Image.new("RGB", (1, 20_000)), Crop())


def test_a_fixed_frame_takes_its_own_size_only() -> None:
    crop = Crop(20, 20, fixed=True)
    array = noise(20, 20)
    assert np.array_equal(planar(Image.fromarray(array), crop), array.transpose(2, 0, 1))
    for shape in ((20, 21), (19, 20), (40, 40)):
        with pytest.raises(BrokenImageError, match=f"{shape[1]} x {shape[0]} pixels, not 20 x 20"):
            planar(Image.fromarray(noise(*shape)), crop)
