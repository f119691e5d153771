"""The CUDA kernels: NVIDIA's compiler takes them for every GPU, and they compute what the array code does.

Without a GPU, g++ compiles the same source behind cpu_cuda.h, and an array module that is NumPy by another name
(pretend_gpu.py) makes the package launch it. With `--xp cupy` the same tests run on a GPU.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from pretend_cupy import OPTIONS, PretendCupy, compile_kernels, kernel_launcher, miss
from stimuli import SAMPLES, perturb, photographs

from bandlens.core.errors import EngineError
from bandlens.engine.decision import reduce_in_arrays, reduce_logits
from bandlens.probes import arrays, critical_band, octaves
from bandlens.probes.arrays import CUDA_OPTIONS, KERNELS, SOURCE, to_numpy
from bandlens.probes.blur_and_shuffle import BILATERAL
from bandlens.probes.grid import FAMILIES
from bandlens.probes.noise import fields_in_arrays, polar, random_words, unit_normal_fields, words_in_arrays
from bandlens.probes.spectral import HIGHPASS, LOWPASS

CLOSE = 2e-6
"""The largest distance of a GPU's results from NumPy's: twice what CUDA's own functions may differ by, see below."""
LAST = 2**32 - 1
LARGEST_KEY = 2**64 - 1
CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")


def compile_source(source: str, architecture: str) -> bytes:
    """The machine code that NVRTC makes of a CUDA source with CuPy's options. No GPU is needed."""
    try:
        from cupy.cuda import nvrtc

        program = nvrtc.createProgram(source, "kernels.cu", [], [])
    except (ImportError, RuntimeError) as error:
        miss("kernels", f"no NVRTC ({error}); run: pip install '.[gpu-checks]'")
    try:
        nvrtc.compileProgram(program, (*CUDA_OPTIONS, *CUPY_ADDS, f"-arch={architecture}"))
        code = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(nvrtc.getProgramLog(program)) from error
    finally:
        nvrtc.destroyProgram(program)
    return code if isinstance(code, bytes) else code.encode()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as g++ compiles them, and one of their functions by itself."""
    return compile_kernels(tmp_path_factory.mktemp("kernels"), EXPOSED)


EXPOSED = """
extern "C" void normals_of(const unsigned* words, const unsigned* turns, Normals* out, int count) {
    for (int k = 0; k < count; ++k) out[k] = polar(words[k], turns[k]);
}
"""


def address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module")
def device(library: ctypes.CDLL, xp: ModuleType) -> Iterator[ModuleType]:
    """An array module with which the package uses its kernels."""
    with pytest.MonkeyPatch.context() as patch:
        if xp is np:
            patch.setattr(arrays, "cuda_function", kernel_launcher(library))
        yield PretendCupy() if xp is np else xp


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_nvrtc_compiles_every_kernel(architecture: str) -> None:
    cubin = compile_source(SOURCE.read_text(encoding="utf-8"), architecture)
    assert cubin.startswith(b"\x7fELF")
    for name in KERNELS:
        assert f"\0.text.{name}\0".encode() in cubin, "not among the names of the machine code's sections"


@pytest.mark.parametrize("name", KERNELS)
def test_a_compiler_and_the_table_agree_on_the_arguments(library: ctypes.CDLL, name: str) -> None:
    types = getattr(library, f"types_{name}")
    types.restype = ctypes.c_char_p
    assert types().decode().split() == list(KERNELS[name].arguments)


def test_normals_of_extreme_words(library: ctypes.CDLL) -> None:
    extremes = np.array([0, 1, 2**31, LAST - 1, LAST, *range(2**30, 2**32, 2**30 - 1)], np.uint32)
    words, turns = (np.ascontiguousarray(grid.ravel()) for grid in np.meshgrid(extremes, extremes))
    normals = np.empty((len(words), 2), np.float32)
    library.normals_of(address(words), address(turns), address(normals), len(words))
    np.testing.assert_allclose(normals, np.stack(polar(np, words, turns), axis=1), rtol=0, atol=CLOSE)


@pytest.mark.parametrize(
    ("seed", "images", "draw", "size"),
    [
        (0, [0], 0, 128),
        (7, [5, 3, 49_999], 0, 224),
        (2**63 - 1, [LARGEST_KEY, 0, LAST], LAST, 224),
        (1 << 40, [2**63, 2**31 - 1], 12345, 130),  # 4225 blocks of four: not a multiple of the threads in a block
    ],
)
def test_fields_equal_array_code(device: ModuleType, seed: int, images: list[int], draw: int, size: int) -> None:
    fields = to_numpy(unit_normal_fields(device, seed, device.asarray(images, dtype=device.uint64), draw, size))
    expected = fields_in_arrays(np, seed, np.array(images, np.uint64), draw, size)
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("count", "stream"), [(1, 0), (4, LAST), (1023, LAST), (50_176, 0)])
def test_words_equal_array_code(device: ModuleType, count: int, stream: int) -> None:
    seed, draw, keys = 2**63 - 1, 12, np.array([0, LARGEST_KEY, LAST + 1], np.uint64)
    words = to_numpy(random_words(device, seed, device.asarray(keys), draw, count, stream))
    np.testing.assert_array_equal(words, words_in_arrays(np, seed, keys, draw, count, stream))


@pytest.mark.parametrize(
    ("size", "d", "sigma_color", "sigma_space"), [(130, 2, 1, 1), (33, 9, 50, 75), (9, 16, 200, 2)]
)
def test_smoothing_equals_array_code(
    device: ModuleType, size: int, d: int, sigma_color: float, sigma_space: float
) -> None:
    (condition,) = BILATERAL.conditions({"d": d, "sigma_color": sigma_color, "sigma_space": sigma_space})
    pixels = np.random.default_rng(size).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    pixels[0] //= 64  # near neighbours count
    images = perturb(device, [condition], pixels)[condition]
    np.testing.assert_allclose(images, perturb(np, [condition], pixels)[condition], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [6, 34])
def test_filters_of_every_radius_equal_array_code(device: ModuleType, size: int) -> None:
    cutoffs = [r / (size // 2) for r in range(size // 2 + 1)]
    conditions = [*LOWPASS.conditions({"cutoff": cutoffs}), *HIGHPASS.conditions({"cutoff": cutoffs})]
    pixels = np.random.default_rng(size).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    expected = perturb(np, conditions, pixels)
    for condition, images in perturb(device, conditions, pixels).items():
        np.testing.assert_allclose(images, expected[condition], rtol=0, atol=CLOSE, err_msg=str(condition))


@pytest.mark.parametrize(("size", "full_size", "fine"), [(130, True, True), (16, True, False), (130, False, True)])
def test_clipped_sums_equal_array_code(device: ModuleType, size: int, full_size: bool, fine: bool) -> None:
    rng = np.random.default_rng(size)
    coarse = rng.uniform(-0.2, 1.2, (3, 3, size, size) if full_size else (3, 3, 1, 1)).astype(np.float32)
    band = rng.normal(0, 0.3, (3, 3, size, size)).astype(np.float32) if fine else None
    out, expected = (module.empty((3, 3, size, size), dtype=np.float32) for module in (device, np))
    octaves.clip_sum_in_kernel(device, device.asarray(coarse), None if band is None else device.asarray(band), out)
    octaves.clip_sum_in_arrays(np, coarse, band, expected)
    np.testing.assert_array_equal(to_numpy(out), expected)


@pytest.mark.parametrize("size", [6, 130])
def test_luma_equals_array_code(device: ModuleType, size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    luma = critical_band.luma_in_kernel(device, device.asarray(pixels))
    np.testing.assert_array_equal(to_numpy(luma), critical_band.luma_in_arrays(np, pixels))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_with_its_kernels(device: ModuleType, name: str) -> None:
    conditions = FAMILIES[name].conditions(SAMPLES[name])[-3:]
    pixels, keys = photographs(3), [LARGEST_KEY, 0, 17]
    expected = perturb(np, conditions, pixels, keys)
    for condition, images in perturb(device, conditions, pixels, keys).items():
        apart = np.abs(images - expected[condition]) > 1e-5
        assert apart.sum() <= 6, f"{condition}: more than the pixels that rounding may push across a border"


def noisy(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images and a band of noise, (count, size, size) float32."""
    rng = np.random.default_rng(size + count)
    grey = rng.uniform(0.25, 0.65, (count, size, size)).astype(np.float32)
    return grey, rng.standard_normal(grey.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("noise_sd", "images", "size"),
    [(0.02, [LARGEST_KEY], 128), (0.16, [3, 1, LAST - 1], 130), (0.5, [0, 2**63], 224), (1.0, [LARGEST_KEY, 7], 130)],
)
def test_mixing_equals_array_code(device: ModuleType, noise_sd: float, images: list[int], size: int) -> None:
    draw, seed, keys = 7, 2**62 + 1, np.array(images, np.uint64)
    grey, band = noisy(len(keys), size)
    out = device.full((len(keys), 3, size, size), device.nan, device.float32)
    on_device = [device.asarray(array) for array in (grey, band)]
    critical_band.mix_in_kernel(*on_device, noise_sd, critical_band.NoiseStream(seed, device.asarray(keys), draw), out)
    mixed, expected = to_numpy(out), np.empty((len(keys), 3, size, size), np.float32)
    peak, stream = float(abs(band).max()), critical_band.NoiseStream(seed, keys, draw)
    critical_band.mix_in_arrays(np, grey, band, noise_sd, peak, stream, expected)
    noise = band * np.float32(noise_sd)
    value = grey + noise
    fresh = ((value < 0) & (noise < -0.9)) | ((value > 1) & (noise > 0.9))
    assert fresh.any() == (noise_sd >= 0.5)
    assert ((value < 0) | (value > 1)).any() == (noise_sd >= 0.16)
    for channel in range(3):
        np.testing.assert_array_equal(mixed[:, channel][~fresh], expected[:, channel][~fresh])
        np.testing.assert_allclose(mixed[:, channel][fresh], expected[:, channel][fresh], rtol=0, atol=CLOSE)


LOGITS = [-np.inf, -80.0, -2.0, 0.0, 0.5, 0.5000001, 3.0, 80.0, np.inf, np.nan]


@fuzz(30)
@given(
    rows=st.integers(1, 70) | st.sampled_from([32, 129]),
    classes=st.integers(1, 70) | st.sampled_from([32, 200, 1000]),
    spread=st.sampled_from([0.0, 1e-3, 30.0]),
    finite=st.booleans(),
    labels=st.sampled_from([None, np.int32, np.int64]),
    seed=st.integers(0),
)
def test_reducing_equals_array_code_ties_and_infinities_included(
    device: ModuleType, rows: int, classes: int, spread: float, finite: bool, labels: Any, seed: int
) -> None:
    """Ties are the rule where the values are not spread."""
    rng = np.random.default_rng(seed)
    logits = rng.choice(LOGITS[1:-2] if finite else LOGITS, (rows, classes)).astype(np.float32)
    logits += (spread * rng.standard_normal((rows, classes))).astype(np.float32)
    numbers = None if labels is None else rng.integers(0, classes, rows, dtype=labels)
    columns = reduce_logits(device, device.asarray(logits), None if numbers is None else device.asarray(numbers))
    expected = reduce_in_arrays(np, logits, numbers)
    for column, expected_column in zip(columns, expected, strict=True):
        assert (column is None) == (expected_column is None)
        if column is not None:
            assert to_numpy(column).dtype == expected_column.dtype
            np.testing.assert_allclose(to_numpy(column), expected_column, rtol=0, atol=CLOSE, equal_nan=True)


def test_an_array_that_the_kernel_would_misread_is_refused(device: ModuleType) -> None:
    grey, band = (device.asarray(array) for array in noisy(2, 128))
    out = device.empty((2, 3, 128, 128), dtype=device.float32)
    stream = critical_band.NoiseStream(0, device.asarray([0, 1], dtype=device.uint64), 0)
    for misread in (grey[:, ::2], grey.astype(device.float64)):
        with pytest.raises(EngineError, match=r"kernel mix_noise: got float\d\d of strides .*; it takes contiguous"):
            critical_band.mix_in_kernel(misread, band, 0.1, stream, out)


# Under sanitizers

BEYOND = """
import sys
from pathlib import Path

import numpy as np
from pretend_cupy import PretendCupy, compile_kernels, kernel_launcher

from bandlens.probes.arrays import SOURCE

random_words, xp = kernel_launcher(compile_kernels(Path(sys.argv[1])))(SOURCE, "random_words"), PretendCupy()
words, keys = xp.empty((1, 4 * 8), np.uint32), xp.zeros(1, np.uint64)
random_words((1, 1), (256,), (words, keys, np.uint64(0), np.uint32(0), np.uint32(0), np.uint32(9)))
"""
"""A launch for nine blocks of four words, of which there is room for eight."""


def run_sanitizer(*words: str) -> subprocess.CompletedProcess[str]:
    """Python with kernels that stop the process where they leave an array or do what C++ does not define."""
    compiler = shutil.which("g++") or miss("kernels", "no g++: install it (apt-get install g++)")
    # The sanitizer has to be there before memory is handed out, and the library that it watches before that.
    libraries = [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    environment = os.environ | {
        OPTIONS: "-fsanitize=address,undefined -fno-sanitize-recover=all",
        "LD_PRELOAD": ":".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much at its end
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]),
    }
    return subprocess.run([sys.executable, "-P", *words], capture_output=True, text=True, env=environment, check=False)


def test_kernels_stay_within_their_arrays_and_what_is_defined() -> None:
    """The tests above that start kernels, again; families, which start the same ones for longer, are left out."""
    names = "(equal or extreme) and not family"
    result = run_sanitizer("-m", "pytest", "-q", "--numprocesses", "0", "-p", "no:cacheprovider", __file__, "-k", names)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_kernel_that_leaves_its_array_is_stopped(tmp_path: Path) -> None:
    result = run_sanitizer("-c", BEYOND, str(tmp_path))
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
