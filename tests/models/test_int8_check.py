"""int8 on CPUs: sums are those of the graph, whatever the processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from required import miss
from small import CLASSES, make_batch, make_model

from bandlens.core.records import Model
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.model_files import save_onnx_file
from bandlens.export.onnx.int8 import to_int8

Images = NDArray[np.float32]


def logits(engine: str, model: Model, images: Images, precision: str) -> Images:
    with open_session(variant_of(model, engine, precision), len(images), 1) as session:
        return session.infer(images).copy()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_is_what_the_graph_says(engine: str, tmp_path: Path) -> None:
    """ONNX Runtime, when it optimizes nothing, computes every operator by itself, and in float32 between quantizing."""
    pytest.importorskip("nncf", reason="the extra openvino is not installed")
    model, images = make_model(tmp_path), make_batch(8)
    content = to_int8(model.path.read_bytes(), [make_batch(16, seed=7)])
    save_onnx_file(model, "int8", content, {})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    [expected] = onnxruntime.InferenceSession(content, options).run(None, {"images": images})
    assert np.abs(logits(engine, model, images, "fp32") - expected).max() > 0.01, "which fp32 does not"
    np.testing.assert_allclose(logits(engine, model, images, "int8"), expected, rtol=1e-5, atol=1e-5)


PRODUCTS = 27
"""Each sum of the next model is made of so many of the largest products that int8 has."""


def largest_sums(folder: Path) -> Model:
    """A model whose int8 graph gives PRODUCTS for white images, or half of it where sums are cut to 16 bits."""
    model = make_model(folder)
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    sums (float[batch, 3, 128, 128] images) => (float[batch, {CLASSES}] logits)
    <float pixel = {{{1 / 255}}}, uint8 from_zero = {{0}}, float sum = {{{PRODUCTS / 255}}}>
    {{
        pixels = QuantizeLinear (images, pixel, from_zero)
        activations = DequantizeLinear (pixels, pixel, from_zero)
        weights = DequantizeLinear <axis = 0> (kernel, weight, zeros)
        sums = Conv (activations, weights)
        quantized = QuantizeLinear (sums, sum, from_zero)
        averaged = DequantizeLinear (quantized, sum, from_zero)
        average = GlobalAveragePool (averaged)
        logits = Flatten (average)
    }}"""
    network = onnx.parser.parse_model(text)
    for name, array in (
        ("kernel", np.full((CLASSES, 3, 3, 3), 127, np.int8)),
        ("weight", np.full(CLASSES, 1 / 127, np.float32)),
        ("zeros", np.zeros(CLASSES, np.int8)),
    ):
        network.graph.initializer.append(numpy_helper.from_array(array, name))
    content = network.SerializeToString()
    save_onnx_file(model, "int8", content, {})
    return model


WHITE = """
import sys
from pathlib import Path
import numpy as np
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.model_files import load_model
with open_session(variant_of(load_model(Path(sys.argv[1]), "one"), "onnxruntime", "int8"), 2, 1) as session:
    print(*session.infer(np.ones((2, 3, 128, 128), np.float32)).ravel())
"""


@pytest.mark.parametrize("processor", ["", "Haswell"], ids=["this one", "AVX2"])
def test_sums_of_int8_products_are_not_cut(processor: str, tmp_path: Path) -> None:
    """x86 processors without VNNI multiply uint8 by int8 in pairs, and cut their sum to 16 bits."""
    emulator = []
    if processor:
        if platform.machine() != "x86_64":
            pytest.skip("only x86 processors do so")
        program = shutil.which("qemu-x86_64") or miss("qemu", "no emulator: install it (apt-get install qemu-user)")
        emulator = [program, "-cpu", processor]
    folder = largest_sums(tmp_path).path.parent
    command = [*emulator, sys.executable, "-P", "-c", WHITE, str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose([float(word) for word in output.split()], PRODUCTS, rtol=1e-3)
