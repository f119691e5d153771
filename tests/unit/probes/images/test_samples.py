"""Pictures of more than 8 bits: read as OpenCV and tifffile wrote them, scaled by the formula, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandlens.app.cli.commands.images import read_range
from bandlens.core.errors import ImageSetError, UsageError
from bandlens.core.records import PERCENTILES, Crop
from bandlens.probes.images.decode import BrokenImageError, cropped, pillow_warnings
from bandlens.probes.images.image_set import check_image_set
from bandlens.probes.images.pack import pack, pack_arrays
from bandlens.probes.images.pack_options import How

CROP = Crop(24, 24, squash=True)


def samples_of(kind: type, *shape: int, seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).random(shape)
    return values.astype(kind) if kind in (np.float32, np.float64) else (values * 60_000).astype(kind)


def tiff(samples: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def png(samples: NDArray[Any]) -> bytes:
    swapped = samples[..., ::-1] if samples.ndim == 3 else samples  # OpenCV's colours are BGR
    success, content = cv2.imencode(".png", swapped)
    assert success
    return content.tobytes()


def png_of_every_filter() -> bytes:
    """A colour PNG of 16 bits whose rows have each filter of the format in turn, over bytes that are drawn."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = np.random.default_rng(0).integers(0, 256, (24, 1 + 6 * 24), np.uint8)
    rows[:, 0] = np.arange(24) % 5
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")


GREY, COLOUR = samples_of(np.uint16, 24, 24), samples_of(np.uint16, 24, 24, 3)
FILES: dict[str, tuple[bytes, NDArray[Any]]] = {
    "grey.png": (png(GREY), GREY),
    "colour.png": (png(COLOUR), COLOUR),
    "every-filter.png": (
        content := png_of_every_filter(),
        cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1],
    ),
    "grey.tif": (tiff(GREY), GREY),
    "big-endian.tif": (tiff(GREY, byteorder=">"), GREY),
    "colour.tif": (tiff(COLOUR, photometric="rgb"), COLOUR),
    "planes.tif": (tiff(COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), COLOUR),
    "deflated.tif": (tiff(GREY, compression="zlib"), GREY),
    "float-colour.tif": (tiff(part := samples_of(np.float32, 24, 24, 3), photometric="rgb"), part),
    "double.tif": (tiff(part := samples_of(np.float64, 24, 24)), part),
    "signed.tif": (tiff(part := (GREY // 4).astype(np.int16) - 4000), part),
}


def by_formula(samples: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """(3, height, width) of the formula, in exact steps."""
    pixels = np.rint(255 * np.clip((samples.astype(np.float64) - low) / (high - low), 0, 1)).astype(np.uint8)
    return np.stack([pixels] * 3) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_whole_and_scaled_by_their_range(name: str) -> None:
    content, samples = FILES[name]
    low, high = float(np.quantile(samples, 0.1)), float(np.quantile(samples, 0.9))
    assert np.array_equal(cropped(content, replace(CROP, range=(low, high)))[0], by_formula(samples, low, high))
    ends = np.percentile(samples, (1, 99))
    assert np.array_equal(cropped(content, replace(CROP, range=PERCENTILES))[0], by_formula(samples, *ends))
    with pytest.raises(BrokenImageError) as error:
        cropped(content, CROP)
    assert str(error.value) == f"it holds {samples.dtype.name} from {samples.min():g} to {samples.max():g}"
    assert "--range LOW,HIGH" in error.value.advice


EIGHT = samples_of(np.uint16, 24, 24, 3).astype(np.uint8)


@pytest.mark.parametrize(
    ("content", "levels", "reason"),
    [
        (tiff(np.stack([GREY] * 3), photometric="minisblack"), (0, 9), "it has 3 pages"),
        (tiff(EIGHT[..., [0, 1, 2, 0, 1]], photometric="minisblack", planarconfig="contig"), None, "5 channels"),
        (tiff(samples_of(np.uint16, 24, 24, 4), photometric="rgb"), (0, 9), "it has 4 channels"),
        (tiff(COLOUR, photometric="rgb", compression="zlib"), (0, 9), "it is compressed RGB of more than 8 bits"),
        (tiff(np.full((24, 24), np.nan, np.float32)), (0, 9), "some of its samples are no numbers"),
        (tiff(GREY, photometric="miniswhite"), (0, 9), "its least sample is white"),
        (tiff(np.full((24, 24), 7, np.uint16)), PERCENTILES, "its 1st and 99th percentile are both 7"),
        (png(samples_of(np.uint16, 24, 24, 4)), (0, 9), "it has 16 bits and transparency"),
    ],
    ids=range(8),
)
def test_what_has_no_range_or_is_no_picture_is_refused(content: bytes, levels: Any, reason: str) -> None:
    with pillow_warnings(), pytest.raises(BrokenImageError, match=reason):
        cropped(content, replace(CROP, range=levels))


@fuzz(40)
@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_damaged_files_are_read_or_are_broken_and_nothing_else(name: str, data: st.DataObject) -> None:
    file = bytearray(FILES[name][0])
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(file)))
    with pillow_warnings(), suppress(BrokenImageError):
        assert cropped(bytes(file[:cut]), replace(CROP, range=(0, 60_000)))[0].shape == (3, 24, 24)


def test_the_range_is_part_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("grey.tif", "grey.png", "colour.tif"):
        (tmp_path / "scans" / name).write_bytes(FILES[name][0])
    with pytest.raises(
        ImageSetError, match=r"is broken \(it holds uint16 from \d+ to \d+\); pack the set with --range L"
    ):
        pack(tmp_path / "scans", tmp_path / "set", crop=CROP)
    assert not (tmp_path / "set").exists()
    wide_set, narrow_set, streamed = (
        pack(tmp_path / "scans", tmp_path / name, crop=replace(CROP, range=levels), how=How(stream=name == "streamed"))
        for name, levels in (("wide", (0.0, 65535.0)), ("narrow", (0.0, 4095.0)), ("streamed", (0.0, 4095.0)))
    )
    assert wide_set.info.digest != narrow_set.info.digest == streamed.info.digest
    assert narrow_set.info.preprocessing.endswith("; 0.0 to 4095.0 as black and white")
    assert CROP.gives(narrow_set.info.preprocessing)
    rows = np.arange(3)
    assert np.array_equal(narrow_set.take(rows), streamed.take(rows))
    assert check_image_set(tmp_path / "streamed").info.digest == narrow_set.info.digest


def test_arrays_take_a_range_too(tmp_path: Path) -> None:
    items = [("a", GREY), ("b", COLOUR), ("c", EIGHT)]
    images = pack_arrays(items, tmp_path / "set", crop=replace(CROP, range=(0.0, 50_000.0)))
    for row, samples in enumerate((GREY, COLOUR)):
        assert np.array_equal(images.take(np.array([row]))[0], by_formula(samples, 0, 50_000))
    assert np.array_equal(images.take(np.array([2]))[0], EIGHT.transpose(2, 0, 1))


def test_pictures_of_8_bits_in_a_mixed_folder_stay_as_they_are() -> None:
    jpeg = cv2.imencode(".jpg", EIGHT)[1].tobytes()
    for content in (png(EIGHT), png(EIGHT[..., 0]), tiff(EIGHT, photometric="rgb"), jpeg):
        pixels, _, clipping = cropped(content, replace(CROP, range=(0.0, 50_000.0)))
        assert np.array_equal(pixels, cropped(content, CROP)[0])
        assert clipping is None


@pytest.mark.parametrize(
    ("levels", "share"), [((0, 1), "100"), ((0, 52_900), "12"), ((0, 55_500), None), (PERCENTILES, None)]
)
def test_a_range_that_leaves_out_more_than_a_tenth_of_the_samples_is_warned_of(
    levels: Any, share: str | None, tmp_path: Path
) -> None:
    ramp = np.linspace(1000, 60_000, 24 * 24).reshape(24, 24).astype(np.uint16)
    (tmp_path / "scans").mkdir()
    for name, content in {"a.png": png(ramp), "b.png": png(EIGHT), "c.png": png(EIGHT)}.items():
        (tmp_path / "scans" / name).write_bytes(content)
    lines: list[str] = []
    pack(tmp_path / "scans", tmp_path / "set", crop=replace(CROP, range=levels), how=How(say=lines.append))
    warnings = [line for line in lines if "beyond" in line]
    expected = f"{share}% of the samples, which go from 1,000 to 60,000, lie beyond --range {levels[0]},{levels[1]}"
    assert (expected in warnings[0]) if share else not warnings


def test_a_range_that_cannot_be_read_or_is_upside_down_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot read --range a,b; write LOW,HIGH, or percentiles"):
        read_range("a,b")
    for levels in ((1.0, 1.0), (float("nan"), 1.0), (-1.7e308, 1.7e308)):
        with pytest.raises(UsageError, match="is upside down or endless; write black first, then white"):
            Crop(range=levels)


def dicom(samples: NDArray[Any], **fields: Any) -> bytes:
    pydicom = pytest.importorskip("pydicom", reason="no pydicom: pip install 'bandlens[images]'")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.CTImageStorage, "1.2.3"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    bits = 8 * samples.itemsize
    about = {"Rows": samples.shape[0], "Columns": samples.shape[1], "SamplesPerPixel": 1, "BitsAllocated": bits}
    about |= {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0, "PixelData": samples.tobytes()}
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    for name, value in ({"PhotometricInterpretation": "MONOCHROME2"} | about | fields).items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_dicom_is_scaled_in_the_units_that_it_states(tmp_path: Path) -> None:
    content = dicom(GREY, RescaleSlope=2, RescaleIntercept=-1024)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").write_bytes(content)
    units = 2.0 * GREY - 1024
    images = pack(tmp_path / "scans", tmp_path / "set", crop=replace(CROP, range=(0.0, 40_000.0)))
    assert np.array_equal(images.take(np.array([0]))[0], by_formula(units, 0, 40_000))
    with pytest.raises(BrokenImageError, match=f"from {units.min():g} to {units.max():g}"):
        cropped(content, CROP)
    eight = np.ascontiguousarray(EIGHT[..., 0])
    for crop in (CROP, replace(CROP, range=(0.0, 9.0))):
        assert np.array_equal(cropped(dicom(eight), crop)[0], np.stack([eight] * 3))


def test_other_dicom_is_refused() -> None:
    for fields, reason in (
        ({"NumberOfFrames": 2}, "it has 2 frames"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "it is MONOCHROME1"),
        ({"Rows": 1 << 15, "Columns": 1 << 15}, "32768 x 32768 pixels, more than"),
        ({"PixelData": b"1234"}, "."),
    ):
        with pytest.raises(BrokenImageError, match=reason):
            cropped(dicom(GREY, **fields), replace(CROP, range=(0.0, 1.0)))


def test_a_range_of_pictures_of_8_bits_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(np.zeros((24, 24), np.uint8)))
    with pytest.raises(
        UsageError, match="photos: all pictures have 8 bits, of which a range changes nothing; leave it"
    ):
        pack(tmp_path / "photos", tmp_path / "out.set", crop=replace(CROP, range=(0, 100)))
    assert not (tmp_path / "out.set").exists()
