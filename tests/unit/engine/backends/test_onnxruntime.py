"""ONNX Runtime on the CPU: threads share a batch by parts."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state
from onnxruntime.quantization import quantize_dynamic
from small import make_model, replace_content

from bandlens.core.errors import EngineError
from bandlens.core.records import Model
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.engine.backends.onnxruntime import EXACT, GPU_ONLY, NO_WAIT

SIZE = 32


def random_images(count: int, size: int = 128) -> NDArray[np.float32]:
    return np.random.default_rng(count).random((count, 3, size, size), np.float32)


@pytest.mark.parametrize(("batch", "threads"), [(1, 4), (6, 1), (7, 2), (32, 3)])
def test_logits_are_those_of_the_whole_batch_to_the_last_bit(tmp_path: Path, batch: int, threads: int) -> None:
    model, images = make_model(tmp_path), random_images(batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    reference = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
    with open_session(variant_of(model, "onnxruntime", "fp32"), batch, threads) as session:
        for batch_images in (images, images[::-1].copy()):
            np.testing.assert_array_equal(session.infer(batch_images), reference.run(None, {"images": batch_images})[0])


def model_that_fails(folder: Path) -> Model:
    """A model of three classes for which a first pixel above 1/2 is an index out of bounds."""
    content = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 18]>
        failing (float[batch, 3, 32, 32] images) => (float[batch, 3] logits)
        <int64[3] zeros = {0, 0, 0}, int64[3] ones = {1, 1, 1}, int64[3] axes = {1, 2, 3}, int64[1] rows = {-1},
         float[1] twenty = {20}, int64[2] shape = {11, 3}>
        {
            pixel = Slice(images, zeros, ones, axes)
            row = Reshape(pixel, rows)
            index = Mul(row, twenty)
            place = Cast<to = 7>(index)
            numbers = ConstantOfShape(shape)
            table = EyeLike(numbers)
            logits = Gather(table, place)
        }
    """).SerializeToString()
    return replace_content(make_model(folder, "failing", size=SIZE, classes=3), content)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_part_that_fails_is_one_line_and_the_next_batch_is_computed(tmp_path: Path, threads: int) -> None:
    images = random_images(16, SIZE) / 2
    failing = images.copy()
    failing[9, 0, 0, 0] = 1
    with open_session(variant_of(model_that_fails(tmp_path), "onnxruntime", "fp32"), 16, threads) as session:
        expected = session.infer(images).copy()
        with pytest.raises(EngineError, match=r"ONNX Runtime failed at batch 16: .*out of data bounds") as error:
            session.infer(failing)
        assert "\n" not in str(error.value)
        np.testing.assert_array_equal(session.infer(images), expected)


def test_after_an_error_no_part_runs_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part fails once the second runs, which goes on for long unless it is left behind."""
    run = onnxruntime.InferenceSession.run_with_iobinding
    numbers, parts_at_work = count(), list[Any]()
    has_begun, is_left = Event(), Event()

    def run_part(session: Any, binding: Any, options: Any) -> None:
        if next(numbers) == 0:
            has_begun.wait()
            raise RuntimeError("no room")
        parts_at_work.append(binding)
        has_begun.set()
        for _ in range(1000):
            if not is_left.is_set():
                run(session, binding, options)
        parts_at_work.remove(binding)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run_part)
    model = make_model(tmp_path, size=SIZE)
    with open_session(variant_of(model, "onnxruntime", "fp32"), 16, 2) as session:
        with pytest.raises(EngineError, match="no room"):
            session.infer(random_images(16, SIZE))
        late_parts = list(parts_at_work)
        is_left.set()
    assert not late_parts


def test_parts_without_a_row_that_is_needed_are_left_out(tmp_path: Path) -> None:
    failing = random_images(16, SIZE) / 2
    failing[9, 0, 0, 0] = 1  # in the third of four parts
    with open_session(variant_of(model_that_fails(tmp_path), "onnxruntime", "fp32"), 16, 2) as session:
        for rows in (slice(0, 8), slice(12, 16), slice(0, 0)):
            session.infer(failing, rows)
        for rows in (slice(0, 9), slice(11, 12), slice(5, None)):
            with pytest.raises(EngineError, match="out of data bounds"):
                session.infer(failing, rows)


def test_a_file_that_scales_integers_by_the_batch_depends_on_no_number_of_threads(tmp_path: Path) -> None:
    fp32_model = make_model(tmp_path, size=64)
    quantize_dynamic(fp32_model.path, tmp_path / "dynamic.onnx", op_types_to_quantize=["Conv"])
    content = (tmp_path / "dynamic.onnx").read_bytes()
    model = replace_content(fp32_model, content)
    images = random_images(8, 64) * np.linspace(0.1, 1, 8, dtype=np.float32)[:, None, None, None]
    (expected,) = onnxruntime.InferenceSession(content).run(None, {"images": images})
    for threads in (1, 2, 8):
        with open_session(variant_of(model, "onnxruntime", "fp32"), 8, threads) as session:
            np.testing.assert_array_equal(session.infer(images), expected)


def test_settings_of_a_gpu_have_names_that_onnxruntime_knows() -> None:
    """It takes any name, and says nothing of one that it does not know."""
    library = Path(onnxruntime_pybind11_state.__file__).read_bytes()
    assert {name for name in {*GPU_ONLY, *EXACT, NO_WAIT} if name.encode() + b"\0" not in library} == set()
    assert b"session.no_such_setting\0" not in library
