"""Use an installed bandlens from an ONNX file to a report, where neither torch nor a checkout is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper, numpy_helper

import bandlens
from bandlens.export.reference_images import PHOTOGRAPH_FOLDER

STUDY = """
name = "wheel"
checkpoints = ["a", "b"]
models = "models"
images = ["photos.set"]
[probes]
lowpass = {}
highpass = {}
"""


def write_network(file: Path, seed: int) -> None:
    """A convolution and a linear layer with random weights, for images of 64 pixels."""
    rng = np.random.default_rng(seed)
    shapes = {"filters": (8, 3, 5, 5), "weight": (10, 8), "bias": (10,)}
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["maps"]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["y"], transB=1),
    ]
    images = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 64, 64])
    logits = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "network", [images], [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


def bandlens_says(folder: Path, *words: str, code: int = 0) -> str:
    """Standard output and error of a command, which has to end with the code."""
    command = [sys.executable, "-P", "-m", "bandlens", *words]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == code, f"bandlens {' '.join(words)}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr


assert "site-packages" in str(bandlens.__file__), bandlens.__file__
for module in ("torch", "torchvision", "skimage", "safetensors", "pooch"):
    assert importlib.util.find_spec(module) is None, module
with TemporaryDirectory() as name:
    folder = Path(name)
    for seed, model in enumerate(("a", "b")):
        write_network(folder / f"{model}.onnx", seed)
        words = ("--name", model, "--normalization", "imagenet", "--out", "models")
        bandlens_says(folder, "export", f"{model}.onnx", *words)
    bandlens_says(
        folder, "images", "pack", str(PHOTOGRAPH_FOLDER), "--out", "photos.set", "--size", "64", "--resize", "64"
    )
    (folder / "study.toml").write_text(STUDY)
    bandlens_says(folder, "run", "study.toml")
    assert "lowpass" in bandlens_says(folder, "sql", "SELECT DISTINCT probe FROM accuracy")
    bandlens_says(folder, "analyze")
    bandlens_says(folder, "compare", "wheel", "--checkpoints", "a,b")
    bandlens_says(folder, "report")
    assert "vega" in (folder / "report.html").read_text()
    bandlens_says(folder, "sample", "--out", "sample.duckdb")
    bandlens_says(folder, "report", "--db", "sample.duckdb", "--out", "sample.html")
    assert "run: pip install 'bandlens[torch]'" in bandlens_says(folder, "export", "tv_resnet50", code=2)
    python = sys.version.split()[0]
    print(f"bandlens {bandlens.__version__} works from an ONNX file to a report with Python {python}")
