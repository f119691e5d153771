"""Networks, weights and a server of downloads: fixtures of the tests of export and of its commands."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import quick_export  # noqa: F401 - many tests export
import torch
import torchvision
from made_once import make_once
from numpy.typing import NDArray
from required import miss
from torch import nn

from bandlens.export.model_files import NORMALIZATIONS
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.export.onnx.int8 import to_int8
from bandlens.export.reference_images import photograph_crops

Randomize = Callable[[nn.Module], nn.Module]


def write_onnx(
    network: nn.Module,
    file: Path,
    names: tuple[str, str] = ("x", "y"),
    shape: tuple[int, ...] = (2, 3, 64, 64),
    open_axes: str = "b",
) -> Path:
    """Have torch write an ONNX file as its users do, with the names of input and output; `open_axes` are of bchw."""
    axes = {axis: torch.export.Dim(f"d{axis}") for axis, name in enumerate("bchw") if name in open_axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own insides
        torch.onnx.export(
            network.eval(),
            (torch.zeros(shape),),
            file,
            dynamo=True,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=(axes,) if axes else None,
            external_data=False,
            verbose=False,
        )
    return file


def _randomize(network: nn.Module) -> nn.Module:
    """Give BatchNorm scales of its own and statistics of photographs: fresh ones predict one class for everything."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(photograph_crops(64)))
    return network.eval()


@pytest.fixture(scope="session")
def photographs() -> NDArray[np.float32]:
    """(18, 3, 64, 64) float32 in [0, 1]."""
    return photograph_crops(64)


@pytest.fixture(scope="session")
def randomize() -> Randomize:
    return _randomize


@pytest.fixture(scope="session")
def resnet18() -> nn.Module:
    torch.manual_seed(2)
    return _randomize(torchvision.models.resnet18(weights=None))


@pytest.fixture(scope="session")
def resnet18_content(resnet18: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The fp32 graph, for 64 x 64 pixels."""

    def export(folder: Path) -> None:
        content, _ = to_onnx(Normalized(resnet18, *NORMALIZATIONS["imagenet"]).eval(), 64)
        (folder / "fp32.onnx").write_bytes(content)

    return (make_once(tmp_path_factory, "resnet18", export) / "fp32.onnx").read_bytes()


@pytest.fixture(scope="session")
def resnet18_int8(
    resnet18_content: bytes, photographs: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The same graph in int8, calibrated on the photographs."""

    def quantize(folder: Path) -> None:
        (folder / "int8.onnx").write_bytes(to_int8(resnet18_content, [photographs]))

    return (make_once(tmp_path_factory, "resnet18-int8", quantize) / "int8.onnx").read_bytes()


@pytest.fixture(scope="session")
def gpu_checks() -> Callable[[str], None]:
    """Skips the test where a package of the extra gpu-checks is missing; fails it if BANDLENS_REQUIRE names them."""

    def check(package: str) -> None:
        if importlib.util.find_spec(package) is None:
            miss("tensorrt-rtx", f"no {package}; pip install 'bandlens[gpu-checks]'")

    return check


@pytest.fixture(scope="session")
def rtx(gpu_checks: Callable[[str], None]) -> ModuleType:
    """TensorRT-RTX, which builds plans without a GPU. Its plans are not TensorRT's, and cannot be run here."""
    gpu_checks("tensorrt_rtx_bindings")
    return importlib.import_module("tensorrt_rtx_bindings")


TINY = """
import torch
from torch import nn

class Tiny(nn.Sequential):
    def __init__(self, noise=0.0):
        super().__init__(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AvgPool2d(7), nn.Flatten(), nn.Linear(128, 10),
        )
        self.noise = noise

    def forward(self, images):
        return super().forward(images + self.noise * torch.rand_like(images) if self.noise else images)
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of the importable `tried_tiny:Tiny`, ten classes; `Tiny(noise=1.0)` never gives the same twice."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tried_tiny.py").write_text(TINY)
    sys.path.insert(0, str(folder))
    torch.manual_seed(3)
    network = _randomize(importlib.import_module("tried_tiny").Tiny())
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "tiny.pth")
    yield folder / "tiny.pth"
    sys.path.remove(str(folder))
    sys.modules.pop("tried_tiny", None)  # each conftest.py that imports this fixture has one of its own


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@dataclass
class Published:
    """A file on the server, and how the server behaves."""

    content: bytes
    kind: str = "application/octet-stream"
    version: str = '"one"'
    cut_after: int | None = None
    """Close the connection after so many bytes of one answer."""
    ranges: bool = True
    location: str = ""
    """The address that the server redirects to, instead of the content."""
    linked: str = ""
    """The sha256 that a hub states of a large file."""


@dataclass
class Server:
    address: str
    files: dict[str, Published] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range) of each request."""


@pytest.fixture
def published() -> type[Published]:
    return Published


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server("")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            byte_range = self.headers.get("Range")
            state.requests.append((self.command, self.path, byte_range))
            file = state.files.get(self.path)
            if file is None:
                self.send_error(404)
                return
            status, content = 200, file.content
            headers = {"Content-Type": file.kind, "ETag": file.version, "X-Repo-Commit": "0" * 40}
            if file.linked:
                headers["X-Linked-Etag"] = f'"{file.linked}"'
            if file.location:
                status, content, headers = 302, b"", {"Location": file.location}
            elif byte_range and file.ranges and self.headers.get("If-Range", file.version) == file.version:
                first, total = int(byte_range.removeprefix("bytes=").partition("-")[0]), len(content)
                if first >= total:
                    self.send_error(416)
                    return
                status, content = 206, content[first:]
                headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: file.cut_after])

        do_HEAD = do_GET  # noqa: N815

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()
