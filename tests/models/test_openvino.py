"""OpenVINO's precisions: what each computes with real weights, and that what is asked for is what runs.

The weights are EfficientNet-Lite0's. What is measured is how many photographs are classified otherwise than at fp32.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from small import make_batch, make_model

from bandlens.app.cli.commands.look import MODEL
from bandlens.core.errors import EngineError
from bandlens.core.records import Model
from bandlens.engine.backends import openvino as openvino_session
from bandlens.engine.backends.base import Session, open_session, variant_of
from bandlens.export.model_files import load_model, save_model, save_onnx_file
from bandlens.export.onnx.int8 import to_int8
from bandlens.probes.images.pack import pack

if find_spec("openvino") is None or find_spec("nncf") is None:
    pytest.skip("the extra openvino is not installed", allow_module_level=True)

Images = NDArray[np.float32]
HAS_BF16 = "BF16" in import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
PRECISIONS = ("fp32", "bf16", "int8") if HAS_BF16 else ("fp32", "int8")
EVERY_PRECISION = pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16), "int8"])
BATCH = 20


def calibrate(model: Model, images: Images) -> Model:
    """The model, with an int8 graph beside it."""
    save_onnx_file(model, "int8", to_int8(model.path.read_bytes(), [images]), {})
    return model


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """80 of them, in [0, 1]."""
    images = pack(shared / "data" / "sample-images", tmp_path_factory.mktemp("photographs") / "photographs.set")
    return np.ascontiguousarray(images.take(np.arange(80)), np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def network(lite0: Path, photographs: Images, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """EfficientNet-Lite0, calibrated on every other photograph."""
    folder = copytree(lite0, tmp_path_factory.mktemp("calibrated") / "models")
    return calibrate(load_model(folder, MODEL), photographs[::2])


def logits(session: Session, images: Images) -> Images:
    outputs = [session.infer(images[first : first + BATCH]).copy() for first in range(0, len(images), BATCH)]
    return np.concatenate(outputs)


@pytest.fixture(scope="module")
def logits_by_precision(network: Model, photographs: Images) -> Mapping[str, Images]:
    """Logits of all photographs, by precision."""
    results = {}
    for precision in PRECISIONS:
        with open_session(variant_of(network, "openvino", precision), BATCH, 2) as session:
            results[precision] = logits(session, photographs)
    return results


@pytest.mark.parametrize(
    ("precision", "flips", "nearest", "farthest"),
    [pytest.param("bf16", 4, 0.01, 0.1, marks=needs_bf16), ("int8", 10, 0.05, 0.3)],
    ids=["bf16", "int8"],
)
def test_a_lower_precision_changes_few_predictions(
    logits_by_precision: Mapping[str, Images], precision: str, flips: int, nearest: float, farthest: float
) -> None:
    """bf16 has 8 bits, int8 fewer: their logits are as far from fp32's as that makes them, not farther, nor nearer."""
    difference = (
        np.sqrt(np.mean((logits_by_precision[precision] - logits_by_precision["fp32"]) ** 2))
        / logits_by_precision["fp32"].std()
    )
    assert nearest < difference < farthest
    assert (logits_by_precision[precision].argmax(1) != logits_by_precision["fp32"].argmax(1)).sum() <= flips
    # Photographs that int8 was not calibrated on change no more often.
    assert (logits_by_precision[precision].argmax(1) != logits_by_precision["fp32"].argmax(1))[1::2].sum() <= flips / 2


# The precision that is asked for runs


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return calibrate(make_model(tmp_path / "models"), make_batch(16, seed=7))


@EVERY_PRECISION
def test_how_many_threads_share_a_batch_changes_no_bit(model: Model, precision: str) -> None:
    """All of these batches are cut into parts of four."""
    pixels, variant = make_batch(16), variant_of(model, "openvino", precision)
    logits_by_cut = []
    for batch, threads in [(4, 1), (8, 2), (16, 1), (16, 2)]:
        with open_session(variant, batch, threads) as session:
            parts = [session.infer(pixels[k : k + batch]).copy() for k in range(0, len(pixels), batch)]
        logits_by_cut.append(np.concatenate(parts))
    for logits_of_cut in logits_by_cut[1:]:
        np.testing.assert_array_equal(logits_of_cut, logits_by_cut[0])


def test_parts_without_a_row_that_is_needed_are_left_out(model: Model) -> None:
    pixels = make_batch(16)
    with open_session(variant_of(model, "openvino", "fp32"), 16, 2) as session:
        mirrored = session.infer(pixels[::-1].copy()).copy()
        expected = session.infer(pixels).copy()
        expected[4:12] = mirrored[4:12]
        np.testing.assert_array_equal(session.infer(pixels[::-1].copy(), slice(7, 9)), expected)


def test_a_graph_without_int8_does_not_run_as_int8(model: Model) -> None:
    variant = replace(variant_of(model, "openvino", "int8"), path=model.path, sha256=model.sha256)
    with pytest.raises(
        EngineError, match=r"one \(openvino int8\): OpenVINO runs .* otherwise \(2 in f32, the rest in f32"
    ):
        open_session(variant, 4, 1)


def test_a_network_without_products_is_refused_with_the_reason(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    case (float[batch, 3, 128, 128] images) => (float[batch, 3] logits) {
        logits = ReduceMean <axes = [2, 3], keepdims = 0> (images)
    }"""
    content = onnx.parser.parse_model(text).SerializeToString()
    model = replace(make_model(tmp_path, "colours", classes=3), sha256=hashlib.sha256(content).hexdigest())
    save_model(model, content, {})
    line = (
        r"^colours \(openvino fp32\): OpenVINO finds no convolution and no matrix product in this network, by whose "
        "arithmetic bandlens checks the precision that runs; run the network with engine onnxruntime or torch$"
    )
    with pytest.raises(EngineError, match=line):
        open_session(variant_of(model, "openvino", "fp32"), 4, 1)


def test_bf16_needs_a_processor_that_has_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    without = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8", "BIN"])
    monkeypatch.setattr(openvino_session, "_core", lambda: without)
    with pytest.raises(EngineError, match="this processor has no bf16, only FP32, INT8, BIN; take fp32"):
        open_session(variant_of(model, "openvino", "bf16"), 4, 1)


OPEN = """
import sys
from pathlib import Path
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.core.errors import EngineError
from bandlens.export.model_files import load_model
for precision in ("fp32", "int8"):
    try:
        with open_session(variant_of(load_model(Path(sys.argv[1]), "one"), "openvino", precision), 4, 1):
            print(precision, "opened")
    except EngineError as error:
        print(precision, error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 processors saturate")
def test_int8_that_saturates_is_refused(model: Model) -> None:
    """OpenVINO is told to do without the newer instructions of this processor."""
    command = [sys.executable, "-P", "-c", OPEN, str(model.path.parent)]
    environment = os.environ | {"DNNL_MAX_CPU_ISA": "AVX2"}
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    assert lines[0] == "fp32 opened"
    assert lines[1].startswith("int8 one (openvino int8): on this processor OpenVINO's int8 saturates at 16 bits")


# Many sessions


INFER = """
import sys
from pathlib import Path
import numpy as np
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.model_files import load_model
def print_megabytes():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(lines["RssAnon"].split()[0]) / 1024)
images = np.zeros((64, 3, 224, 224), np.float32)
variant = variant_of(load_model(Path(sys.argv[1]), sys.argv[2]), "openvino", "fp32")
sessions = [open_session(variant, 64, 2) for _ in range(4)]
print_megabytes()
for session in sessions:
    session.infer(images)
    print_megabytes()
"""


def test_only_one_session_keeps_its_activations(lite0: Path) -> None:
    """Sessions run in a process of their own: memory that other tests freed would take their activations in unseen."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    command = [sys.executable, "-P", "-c", INFER, str(lite0), MODEL]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    baseline, first, *_, last = map(float, lines)
    assert first - baseline > 20, "there is something to share"
    assert last - first < (first - baseline) / 2
