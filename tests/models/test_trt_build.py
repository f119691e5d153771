"""Plans, really built by TensorRT-RTX, which needs no GPU for it.

They are built and not run here, and what RTX makes of a graph is not what TensorRT makes of it: sizes and kernels
differ. What holds for both is how graphs are read, typed and refused, since RTX has TensorRT's parser and API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from bandlens.core.errors import ExportError
from bandlens.export.onnx.fp16 import to_bf16, to_fp16
from bandlens.export.onnx.int8 import symmetric_activations
from bandlens.export.plans.plan_builder import SETTINGS, build_trt_plan, parse_onnx, reading_log, trt_logger

BATCH = 32


@pytest.fixture(scope="module")
def graphs(resnet18_content: bytes, resnet18_int8: bytes) -> dict[str, bytes]:
    """ResNet-18 with random weights and BatchNorm statistics of photographs."""
    return {
        "fp32": resnet18_content,
        "fp16": to_fp16(resnet18_content),
        "bf16": to_bf16(resnet18_content),
        "int8": symmetric_activations(resnet18_int8),
    }


class Read:
    """A network as the parser leaves it. The parser has to live as long."""

    def __init__(self, trt: ModuleType, content: bytes, batch: int = BATCH) -> None:
        self.log = trt_logger(trt)
        self.builder = trt.Builder(self.log)
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self.parser = trt.OnnxParser(self.network, self.log)
        parse_onnx(trt, self.parser, self.network, content, batch)

    def layers(self, kind: Any) -> Iterator[Any]:
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            if layer.type == kind:
                yield layer


def small_graph(*nodes: onnx.NodeProto, batch: str | int = "batch") -> bytes:
    """A network from images of 8 pixels to three logits."""
    ends = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3]),
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


MEAN = (
    helper.make_node("GlobalAveragePool", ["images"], ["mean"], name="mean"),
    helper.make_node("Flatten", ["mean"], ["logits"], name="flatten"),
)


def test_plans_take_and_give_arrays_as_they_lie(rtx: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, configs, real_builder = [], [], rtx.Builder

    def keep(make: Callable[..., Any], objects: list[Any]) -> Callable[..., Any]:
        return lambda *arguments: (objects.append(make(*arguments)), objects[-1])[1]

    def builder(log: Any) -> Any:
        real = real_builder(log)
        return SimpleNamespace(
            create_network=keep(real.create_network, networks),
            create_builder_config=keep(real.create_builder_config, configs),
            build_serialized_network=real.build_serialized_network,
        )

    monkeypatch.setattr(rtx, "Builder", builder)
    assert build_trt_plan(rtx, small_graph(*MEAN), 2)
    for end in (networks[0].get_input(0), networks[0].get_output(0)):
        assert end.allowed_formats == 1 << int(rtx.TensorFormat.LINEAR)


def test_a_process_has_one_logger_and_each_reader_its_own_lines(rtx: ModuleType) -> None:
    """TensorRT warns of a second logger, and sends that one nothing."""
    all_lines, first, second, between = [], [], [], []
    with reading_log(rtx, all_lines):
        build_trt_plan(rtx, small_graph(*MEAN), 2, lines=first)
        build_trt_plan(rtx, small_graph(*MEAN), 3, lines=second)
        with reading_log(rtx, between) as log:
            assert log is trt_logger(rtx)
    for lines in (first, second):
        assert any("ONNX IR version" in line for line in lines)
        assert not [line for line in lines if "logger" in line.lower()]
    assert all_lines == first + second
    assert between == []
    assert trt_logger(rtx).readers == []


def test_the_graph_decides_on_the_types_of_convolutions(rtx: ModuleType, graphs: dict[str, bytes]) -> None:
    kinds = {}
    for precision in ("fp32", "fp16", "bf16"):
        read = Read(rtx, graphs[precision])
        convolutions = list(read.layers(rtx.LayerType.CONVOLUTION))
        assert len(convolutions) == 20
        kinds[precision] = {layer.get_input(0).dtype for layer in convolutions}
        kinds[precision] |= {layer.get_output(0).dtype for layer in convolutions}
    assert kinds == {"fp32": {rtx.DataType.FLOAT}, "fp16": {rtx.DataType.HALF}, "bf16": {rtx.DataType.BF16}}


def test_int8_convolutions_take_int8_through_dequantization(rtx: ModuleType, graphs: dict[str, bytes]) -> None:
    read = Read(rtx, graphs["int8"])
    dequantized = {}
    for layer in read.layers(rtx.LayerType.DEQUANTIZE):
        assert layer.get_input(0).dtype == rtx.DataType.INT8
        dequantized[layer.get_output(0).name] = layer
    pooled = {layer.get_output(0).name: layer.get_input(0).name for layer in read.layers(rtx.LayerType.POOLING)}
    convolutions = list(read.layers(rtx.LayerType.CONVOLUTION))
    assert len(convolutions) == 20
    for layer in convolutions:
        activation, weights = (layer.get_input(index).name for index in (0, 1))
        assert pooled.get(activation, activation) in dequantized
        assert weights in dequantized
    quantized = list(read.layers(rtx.LayerType.QUANTIZE))
    assert {layer.get_output(0).dtype for layer in quantized} == {rtx.DataType.INT8}
    assert len(quantized) == 22  # each convolution, the classifier and one side of each sum take one of them


def test_plans_are_built(rtx: ModuleType, graphs: dict[str, bytes], tmp_path: Path) -> None:
    """Every weight in the type of the graph: so many bytes at least, and at most a third more."""
    parameters = 11.7e6
    for precision, width in (("fp32", 4), ("fp16", 2), ("bf16", 2), ("int8", 1)):
        lines: list[str] = []
        cache = tmp_path / "timing.cache"
        plan = build_trt_plan(rtx, graphs[precision], BATCH, timing_cache=cache, lines=lines)
        assert parameters * width < len(plan) < parameters * width * 1.4
        assert cache.stat().st_size > 0
        assert any(line.startswith("INFO: ") for line in lines)
        assert not any(line.startswith("VERBOSE") for line in lines)


@pytest.mark.parametrize("settings", [(), ("level", "tiling")])
def test_the_builder_takes_the_settings_that_are_asked_for_and_no_others(
    rtx: ModuleType, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """Values that the library reads back; its own stand where a setting is left out."""
    build, configs = rtx.Builder.build_serialized_network, []
    names = [name for name, _ in SETTINGS.values()]

    def remember(builder: Any, network: Any, config: Any) -> Any:
        configs.append({name: int(getattr(config, name)) for name in names})
        return build(builder, network, config)

    monkeypatch.setattr(rtx.Builder, "build_serialized_network", remember)
    assert build_trt_plan(rtx, small_graph(*MEAN), 2)
    assert build_trt_plan(rtx, small_graph(*MEAN), 2, settings=settings)
    defaults, configuration = configs
    assert configuration == defaults | dict(SETTINGS[word] for word in settings)
    assert (configuration == defaults) == (not settings)
    assert defaults["builder_optimization_level"] == 3


def test_a_damaged_timing_cache_is_replaced(rtx: ModuleType, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"damaged")
    lines: list[str] = []
    build_trt_plan(rtx, small_graph(*MEAN), 2, timing_cache=cache, lines=lines)
    assert any("timing cache" in line for line in lines if line.startswith("WARNING"))
    assert cache.read_bytes() != b"damaged"
    assert [path.name for path in tmp_path.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize(
    ("node", "operator"),
    [
        (helper.make_node("Det", ["images"], ["logits"], name="the_one"), "Det"),
        (helper.make_node("Blur", ["images"], ["logits"], name="the_one", domain="mine"), "Blur"),
    ],
)
def test_operators_that_it_lacks_are_named(node: onnx.NodeProto, operator: str, rtx: ModuleType) -> None:
    with pytest.raises(
        ExportError, match=rf"cannot take operator {operator} \(node the_one\).*another engine"
    ) as error:
        build_trt_plan(rtx, small_graph(node), 2)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_refused(rtx: ModuleType, graphs: dict[str, bytes]) -> None:
    for content in (graphs["fp16"][:-1000], b"garbage"):
        with pytest.raises(ExportError, match=r"cannot read the ONNX file: .*Failed to parse.*export it again"):
            build_trt_plan(rtx, content, 2)
