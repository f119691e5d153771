from __future__ import annotations

from pathlib import Path

import pytest
from small import refusal
from torch import nn

from bandlens.core.errors import UnknownName, UsageError
from bandlens.export.weights.architectures import build

NETWORKS = """
import torch

print("made")

class Net(torch.nn.Module):
    def __init__(self, width=3, *, classes=5):
        super().__init__()
        print("noise")
        self.layer = torch.nn.Linear(width, classes)

    @classmethod
    def from_name(cls, name):
        if name != "small":
            raise KeyError(name)
        return cls(1)

def number():
    return 1
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tried_networks.py").write_text(NETWORKS)
    (tmp_path / "with_a_typo.py").write_text("def make(:\n")
    (tmp_path / "without_its_data.py").write_text("raise RuntimeError('no file of weights')\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_names_of_torchvision_and_timm() -> None:
    timm = pytest.importorskip("timm")
    network = build("squeezenet1_1")
    assert type(network).__module__.startswith("torchvision.")
    assert not network.training
    assert type(build("timm:resnet10t")).__module__.startswith("timm.")
    assert type(build("resnet10t")).__module__.startswith("timm.")
    assert timm.is_model("resnet10t")


@pytest.mark.parametrize(
    ("expression", "shape"), [("Net", (5, 3)), ("Net(4, classes=2)", (2, 4)), ("Net.from_name('small')", (5, 1))]
)
def test_factories(expression: str, shape: tuple[int, int], networks: None, capsys: pytest.CaptureFixture[str]) -> None:
    network = build(f"tried_networks:{expression}")
    assert isinstance(network.layer, nn.Linear)
    assert tuple(network.layer.weight.shape) == shape
    assert capsys.readouterr().out == ""  # stdout belongs to --format json


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("tried_networks:Net(print('x'))", "cannot read architecture"),
        ("tried_networks:Nett", "has no attribute 'Nett'; name a class or function of it"),
        ("tried_networks:Net(unknown=1)", "cannot be made: TypeError"),
        ("with_a_typo:make", "architecture 'with_a_typo:make': SyntaxError: invalid syntax"),
        ("without_its_data:make", "RuntimeError: no file of weights"),
        ("tried_networks:number", "makes a int, not a torch.nn.Module"),
    ],
)
def test_what_is_no_factory_is_one_line(architecture: str, message: str, networks: None) -> None:
    assert message in refusal(build, architecture)


def test_a_module_of_this_folder_is_said_to_lie_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_the_weights.py").touch()
    with pytest.raises(UsageError, match=r"write PYTHONPATH=\. before the command, as that file is here"):
        build("beside_the_weights:Net")


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean resnet50"):
        build("resnet-50")
    with pytest.raises(UnknownName, match=r"did you mean resnet18\?;"):
        build("torchvision.models.resnet18")
    with pytest.raises(UsageError, match=r"No module named 'no_such_package'; install its .*PYTHONPATH"):
        build("no_such_package:Net")
    with pytest.raises(UsageError, match="unknown torchvision architecture 'resnet10t'"):
        build("torchvision:resnet10t")
    pytest.importorskip("timm")
    with pytest.raises(UnknownName, match="timm architecture"):
        build("timm:resnet-50")


@pytest.mark.parametrize(
    "architecture", ["torchvision:resnet18(num_classes=37)", "timm:resnet10t.c3_in1k(num_classes=37)"]
)
def test_named_networks_are_called_with_literals(architecture: str) -> None:
    pytest.importorskip("timm")
    assert build(architecture).fc.weight.shape[0] == 37
    assert build(architecture, classes=5).fc.weight.shape[0] == 37
