"""Finished ONNX files: what is taken computes what the file computed, by torch, which wrote it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from networks import write_onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from small import Command
from torch import nn

from bandlens.app.api.export import Lowering, lower
from bandlens.core.errors import CheckpointError, ExportError, UsageError
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.assembly import import_onnx
from bandlens.export.class_names import class_names_of
from bandlens.export.model_files import GREY, NORMALIZATIONS, ONE_LOGIT, describe_model, load_model, verify_model
from bandlens.export.onnx.import_file import is_onnx
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.precisions import make_onnx_file
from bandlens.export.pipeline import export_network
from bandlens.export.weights.read import read

IMAGENET, NO_NORMALIZATION = NORMALIZATIONS["imagenet"], NORMALIZATIONS["none"]
IMAGE = (1, 3, 64, 64)


class Small(nn.Module):
    """Gives seven logits of images of any size; `end` makes something else of them."""

    def __init__(
        self, channels: int = 3, outputs: int = 7, end: Callable[[torch.Tensor], Any] = torch.Tensor.clone
    ) -> None:
        super().__init__()
        self.first, self.last, self.end = nn.Conv2d(channels, 6, 3, 2), nn.Linear(6, outputs), end

    def forward(self, x: torch.Tensor) -> Any:
        return self.end(self.last(self.first(x).relu().mean((2, 3))))


class ChannelsLast(Small):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x.permute(0, 3, 1, 2))


def likely() -> nn.Module:
    """A network of probabilities."""
    return Small(end=lambda logits: logits.softmax(1))


def binary() -> nn.Module:
    """A network that takes grey images and gives one logit."""
    return Small(1, 1)


def write(network: nn.Module, path: Path, shape: tuple[int, ...] = (1, 3, 64, 64), dynamic: str = "") -> nn.Module:
    """The network with weights of its own, and its ONNX file with the names that `images` and `logits` would hide."""
    torch.manual_seed(5)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    batch = 2 if "b" in dynamic else shape[0]
    write_onnx(network, path, ("logits", "output"), (batch, *shape[1:]), dynamic)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, bytes]:
    """A network of logits, and its ONNX file for batches of any size."""
    file = tmp_path_factory.mktemp("small") / "small.onnx"
    return write(Small(), file, dynamic="b"), file.read_bytes()


@pytest.fixture
def small_file(exported: tuple[nn.Module, bytes], tmp_path: Path) -> Path:
    """The network's file, which a test may change."""
    (tmp_path / "small.onnx").write_bytes(exported[1])
    return tmp_path / "small.onnx"


def torch_logits(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return logits


@pytest.mark.parametrize("dynamic", ["", "b"])
def test_the_model_computes_what_torch_does_with_the_normalization_in_front(
    dynamic: str, tmp_path: Path, photographs: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    network = write(Small(), tmp_path / "small.onnx", dynamic=dynamic)
    model, parity = import_onnx(tmp_path / "small.onnx", "small", IMAGENET, tmp_path / "models")
    assert (model.classes, model.image_size, model.normalization) == (7, 64, "imagenet")
    assert parity.holds
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in IMAGENET)
    stored_model = load_model(tmp_path / "models", "small")
    logits = onnx_logits(verify_model(stored_model), photographs)
    np.testing.assert_allclose(logits, torch_logits(network, (photographs - mean) / std), rtol=1e-3, atol=1e-4)
    assert "normalize" not in caplog.text
    import_onnx(stored_model.path, "twice", IMAGENET, tmp_path / "models")
    assert "small.onnx begins with Sub, as files do that normalize by themselves, and is normalized" in caplog.text


class Token(nn.Module):
    """Joins a token to two patches of each image, as a vision transformer does, and gives the logits of the token."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.patches = nn.Parameter(torch.randn(1, 1, 8)), nn.Conv2d(3, 8, (32, 64), 32)
        self.mix, self.last = nn.Linear(3, 3), nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        logits: torch.Tensor = self.last((tokens + self.mix(tokens.transpose(1, 2)).transpose(1, 2)).relu()[:, 0])
        return logits


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("build", [torchvision.models.resnet18, Token])
def test_a_fixed_batch_is_opened(
    build: Callable[[], nn.Module], batch: int, tmp_path: Path, photographs: NDArray[np.float32]
) -> None:
    torch.manual_seed(5)
    network = build().eval()
    write_onnx(network, tmp_path / "fixed.onnx", shape=(batch, *IMAGE[1:]), open_axes="")
    model, parity = import_onnx(tmp_path / "fixed.onnx", "fixed", NO_NORMALIZATION, tmp_path / "models")
    assert parity.holds
    logits = onnx_logits(verify_model(model), photographs)
    np.testing.assert_allclose(logits, torch_logits(network, photographs), rtol=1e-3, atol=1e-4)


def test_an_open_size_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    write(Small(), tmp_path / "small.onnx", dynamic="bhw")
    with pytest.raises(UsageError, match="leaves the size of its images open; say which with --image-size"):
        import_onnx(tmp_path / "small.onnx", "small", NO_NORMALIZATION, tmp_path)
    model, _ = import_onnx(tmp_path / "small.onnx", "small", NO_NORMALIZATION, tmp_path, image_size=96)
    dimensions = onnx.load(model.path).graph.input[0].type.tensor_type.shape.dim
    assert [dimension.dim_param or dimension.dim_value for dimension in dimensions] == ["batch", 3, 96, 96]


def test_weights_that_are_inputs_too_are_weights(
    exported: tuple[nn.Module, bytes], tmp_path: Path, photographs: NDArray[np.float32]
) -> None:
    """Files of IR version 3 list every weight among the inputs, as some exporters do to this day."""
    graph = (content := onnx.load_from_string(exported[1])).graph
    weights = [
        onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in graph.initializer
    ]
    inputs = [*weights, *graph.input]
    del graph.input[:]
    graph.input.extend(inputs)
    onnx.save(content, tmp_path / "old.onnx")
    model, _ = import_onnx(tmp_path / "old.onnx", "old", IMAGENET, tmp_path / "models")
    assert [value.name for value in onnx.load(model.path).graph.input] == ["images"]
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in IMAGENET)
    logits = onnx_logits(verify_model(model), photographs)
    np.testing.assert_allclose(logits, torch_logits(exported[0], (photographs - mean) / std), rtol=1e-3, atol=1e-4)
    assert make_onnx_file(model, "fp16")[1].top1_disagreements == 0


def test_weights_in_a_file_beside_it_become_part_of_it_and_count_for_its_sha256(
    exported: tuple[nn.Module, bytes], tmp_path: Path, photographs: NDArray[np.float32]
) -> None:
    apart, content = tmp_path / "apart.onnx", onnx.load_from_string(exported[1])
    onnx.save(content, apart, save_as_external_data=True, size_threshold=99, location="beside")
    model, _ = import_onnx(apart, "small", NO_NORMALIZATION, tmp_path / "models")
    logits = onnx_logits(verify_model(model), photographs)
    np.testing.assert_allclose(logits, torch_logits(exported[0], photographs), rtol=1e-3, atol=1e-4)
    (np.fromfile(tmp_path / "beside", np.float32) / 2).tofile(tmp_path / "beside")
    halved_model, _ = import_onnx(apart, "small", NO_NORMALIZATION, tmp_path / "models")
    assert model.weights_sha256 != halved_model.weights_sha256
    (tmp_path / "beside").rename(tmp_path / "elsewhere")
    message = "the weights of .*apart.onnx lie in beside, which is not beside it as a real file; copy it there"
    with pytest.raises(ExportError, match=message):
        import_onnx(apart, "small", NO_NORMALIZATION, tmp_path / "models")
    (tmp_path / "beside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match=message):
        import_onnx(apart, "small", NO_NORMALIZATION, tmp_path / "models")


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (
            Small(end=lambda logits: logits.mean(0)[None]),
            IMAGE,
            "works on batches of 1 alone; export it with a dynamic batch: torch.onnx.export(..., dynamic_shapes=({0: ",
        ),
        (Small(end=lambda logits: (logits, logits * 2)), IMAGE, "has 1 input and 2 outputs"),
        (ChannelsLast(), (1, 64, 64, 3), "takes (1, 64, 64, 3) float; export it to take (batch, 3, size, size)"),
        (likely(), IMAGE, "gives probabilities, not logits; export the network without its last softmax"),
        (Small(end=torch.sigmoid), IMAGE, "for all 12 images, as a sigmoid does, not logits, whose softmax is the"),
        (
            Small(1, 1, torch.sigmoid),
            (1, 1, 64, 64),
            "export the network without its last sigmoid; if images may have several labels,",
        ),
        (Small(end=torch.mean), IMAGE, "gives (12,) float32 for 12 images"),
        (Small(), (1, 3, 64, 96), "takes images of 64 x 96 pixels, and only square ones can be measured; export it"),
    ],
)
def test_what_is_no_classifier_is_refused(
    network: nn.Module, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    write(network, tmp_path / "small.onnx", shape)
    with pytest.raises(ExportError) as error:
        import_onnx(tmp_path / "small.onnx", "small", NO_NORMALIZATION, tmp_path / "models")
    assert message in str(error.value)
    assert not (tmp_path / "models").exists()


# Files that compute in another precision


class Images(CalibrationDataReader):
    """Eight images for ONNX Runtime to quantize on."""

    def __init__(self) -> None:
        self.batches = iter([{"logits": np.random.default_rng(k).random((1, 3, 64, 64), np.float32)} for k in range(8)])

    def get_next(self) -> Any:
        return next(self.batches, None)


def to_half(path: Path, out: Path) -> None:
    half = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    OnnxModel.graph_topological_sort(half.graph)
    onnx.save(half, out)


LOWERED: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "QDQ": ("int8", lambda path, out: quantize_static(path, out, Images(), quant_format=QuantFormat.QDQ)),
    "QOperator": ("int8", lambda path, out: quantize_static(path, out, Images(), quant_format=QuantFormat.QOperator)),
    "dynamic": ("int8", lambda path, out: quantize_dynamic(path, out, op_types_to_quantize=["MatMul", "Gemm"])),
    "half": ("fp16", to_half),
}


@pytest.mark.parametrize("kind", LOWERED)
def test_a_file_of_another_precision_is_recorded_as_what_it_is(kind: str, small_file: Path, tmp_path: Path) -> None:
    precision, convert = LOWERED[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(small_file, tmp_path / "lower.onnx")
    import_onnx(tmp_path / "lower.onnx", "small", NO_NORMALIZATION, tmp_path / "models")
    model = load_model(tmp_path / "models", "small")
    assert model.precision == precision
    [row] = lower(model, Lowering())
    assert row["precision"] == precision
    # ONNX Runtime on the CPU computes with float16 numbers in float32, and with int8 ones in int8; torch has halves.
    variant = variant_of(model, "onnxruntime", "fp32")
    assert variant.precision == {"int8": "int8", "fp16": "fp32"}[precision]
    assert kind != "half" or variant_of(model, "torch", "fp32").precision == "fp16"
    assert variant_of(model, "onnxruntime", variant.precision) == variant
    with open_session(variant, 2, 1) as session:
        assert np.isfinite(session.infer(np.zeros((2, 3, 64, 64), np.float32))).all()
    with pytest.raises(UsageError, match=f"small came as an {precision} file; a .* one is made of fp32 alone"):
        make_onnx_file(model, {"int8": "fp16", "fp16": "int8"}[precision])


def test_the_command_takes_an_int8_file_as_int8(command: Command, small_file: Path, tmp_path: Path) -> None:
    """No images are asked for; an fp32 file gets the line that says how its int8 file is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LOWERED["QDQ"][1](small_file, tmp_path / "int8.onnx")
    options = ("--normalization", "none", "--precision", "int8", "--out", tmp_path / "models")
    answer = command("export", tmp_path / "int8.onnx", *options)
    assert (answer.code, load_model(tmp_path / "models", "int8").precision) == (0, "int8"), answer.err
    assert command("export", "int8", *options[2:]).code == 0
    answer = command("export", small_file, *options)
    assert answer.code == 1
    line = r"small has no int8 file in .*; run: bandlens export small --precision int8 .* --calibration IMAGE_SET$"
    assert re.search(line, answer.err.strip())


def test_names_of_classes_in_the_metadata_are_kept(small_file: Path, tmp_path: Path) -> None:
    names = ["ant", "bee", "crow", "deer", "elk", "fox", "gnu"]
    model, _ = import_onnx(small_file, "small", NO_NORMALIZATION, tmp_path / "models")
    assert class_names_of(model) is None
    content = onnx.load(small_file)
    onnx.helper.set_model_props(content, {"names": str(dict(enumerate(names))), "author": "somebody"})
    onnx.save(content, tmp_path / "named.onnx")
    model, _ = import_onnx(tmp_path / "named.onnx", "named", NO_NORMALIZATION, tmp_path / "models")
    assert class_names_of(model) == names


def test_each_kind_of_file_is_sent_to_its_own_option(small_file: Path, tmp_path: Path, tiny: Path) -> None:
    small_file.rename(tmp_path / "small.pth")
    assert is_onnx(tmp_path / "small.pth")
    assert not is_onnx(tiny)
    with pytest.raises(CheckpointError, match=r"small\.pth is an ONNX file; it needs no architecture"):
        read(tmp_path / "small.pth")
    with pytest.raises(UsageError, match="is no ONNX file; weights are given with --architecture"):
        import_onnx(tiny, "small", NO_NORMALIZATION, tmp_path)


def endless(path: Path, images_at_most: int) -> None:
    """Write a classifier that loops for ever where it is given more images."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    endless (float[batch, 3, 64, 64] x) => (float[batch, 3] y) <int64 most = {{{images_at_most}}}, float four = {{4}}>
    {{
        count = Shape <start = 0, end = 1> (x)
        number = Squeeze (count)
        is_long = Greater (number, most)
        means = ReduceMean <axes = [2, 3], keepdims = 0> (x)
        sums = Loop <body = body (int64 turn, bool more, float[a, b] sum) => (bool goes_on, float[a, b] sum_after)
            {{ goes_on = Identity (more) sum_after = Identity (sum) }}> (, is_long, means)
        y = Mul (sums, four)
    }}"""
    onnx.save(onnx.parser.parse_model(text), path)


def children() -> list[str]:
    """The processes that this one has started and not waited for."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("images_at_most", [0, 1])
def test_a_file_that_never_comes_back_is_one_line(
    images_at_most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file loops on batches alone, which the model made of it is run on."""
    endless(tmp_path / "ends.onnx", 99)
    processes = children()
    model, _ = import_onnx(tmp_path / "ends.onnx", "ends", NO_NORMALIZATION, tmp_path / "models")
    assert model.classes == 3
    endless(tmp_path / "mine.onnx", images_at_most)
    monkeypatch.setattr("bandlens.export.onnx.subprocess_run.TRIAL_SECONDS", 4.0)
    with pytest.raises(ExportError) as error:
        import_onnx(tmp_path / "mine.onnx", "mine", NO_NORMALIZATION, tmp_path / "models")
    file = tmp_path / "mine.onnx" if images_at_most == 0 else f"the model of {tmp_path / 'mine.onnx'}"
    assert str(error.value) == (
        f"{file} does not come back from 12 images within 4 s, and so nothing was written; does it loop without an end?"
    )
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["ends.json", "ends.onnx"]
    assert children() == processes


def test_functions_that_call_each_other_twice_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker that expands 40 of them visits 2 to the power of 40 nodes, and no signal ends it."""
    functions = "".join(
        f"""<domain: "own", opset_import: ["": 17, "own": 1]>
        f{level} (x) => (y) {{ a = own.f{level + 1} (x) y = own.f{level + 1} (a) }}"""
        for level in range(40)
    )
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
    doubling (float[batch, 3, 64, 64] x) => (float[batch, 3] y)
    {{ z = own.f0 (x) y = ReduceMean <axes = [2, 3], keepdims = 0> (z) }}
    {functions}<domain: "own", opset_import: ["": 17]> f40 (x) => (y) {{ y = Identity (x) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "mine.onnx")
    monkeypatch.setattr("bandlens.export.onnx.subprocess_run.TRIAL_SECONDS", 4.0)
    with pytest.raises(ExportError, match="does not come back from 12 images within 4 s"):
        import_onnx(tmp_path / "mine.onnx", "mine", NO_NORMALIZATION, tmp_path / "models")


@pytest.mark.parametrize(
    ("images", "logits", "message"),
    [
        ("batch, 3, 50000, 50000", "batch, 3", "takes images of 50,000 pixels, and 4,096 are the most"),
        ("batch, 3, 64, 64", "batch, 2000000", "gives 2,000,000 values an image, and 1,000,000 are the most"),
    ],
)
def test_sizes_that_no_classifier_has_are_refused_before_anything_runs(
    images: str, logits: str, message: str, tmp_path: Path
) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    huge (float[{images}] x) => (float[{logits}] y)
    {{ y = ReduceMean <axes = [2, 3], keepdims = 0> (x) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "mine.onnx")
    with pytest.raises(ExportError, match=message):
        import_onnx(tmp_path / "mine.onnx", "mine", NO_NORMALIZATION, tmp_path / "models")


@pytest.mark.parametrize("way", ["file", "memory"])
def test_one_logit_of_grey_images_is_a_classifier_of_two(
    way: str, tmp_path: Path, photographs: NDArray[np.float32]
) -> None:
    network = write(binary(), tmp_path / "binary.onnx", (1, 1, 64, 64), dynamic="b")
    if way == "file":
        model, _ = import_onnx(tmp_path / "binary.onnx", "binary", IMAGENET, tmp_path / "models")
    else:
        model, _ = export_network(network, "binary", IMAGENET, tmp_path / "models", image_size=64)
    assert (model.classes, model.image_size) == (2, 64)
    assert describe_model(tmp_path / "models", "binary")["adapted"] == [GREY, ONE_LOGIT]
    images = photographs[:, :, :64, :64]
    mean, std = (np.array(channels, np.float32).reshape(3, 1, 1) for channels in IMAGENET)
    logit = torch_logits(network, ((images - mean) / std).mean(axis=1, keepdims=True))
    logits = onnx_logits(model.path.read_bytes(), images)
    assert np.allclose(logits[:, 1] - logits[:, 0], logit[:, 0], atol=1e-5)
    confidence = torch.tensor(logits).softmax(1)[:, 1].numpy()
    assert np.allclose(confidence, 1 / (1 + np.exp(-logit[:, 0])), atol=1e-5)
