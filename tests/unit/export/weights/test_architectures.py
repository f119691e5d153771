from __future__ import annotations

from pathlib import Path

import pytest
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


BROKEN = {
    "with_a_typo": "def make(:\n",
    "without_its_data": "raise RuntimeError('no file of weights')\n",
    "without_its_variable": "import os\nos.environ['SURELY_NOT_SET']\n",
}
"""Modules that fail as they are imported."""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tried_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)


def test_names_of_torchvision_and_timm() -> None:
    timm = pytest.importorskip("timm")
    assert type(build("resnet18")).__module__.startswith("torchvision.")
    assert type(build("timm:resnet18")).__module__.startswith("timm.")
    assert type(build("resnet10t")).__module__.startswith("timm.")
    assert timm.is_model("resnet10t")
    assert not build("resnet18").training


@pytest.mark.parametrize(
    ("expression", "shape"),
    [
        ("Net", (5, 3)),
        ("Net(4)", (5, 4)),
        ("Net(4, classes=2)", (2, 4)),
        ("Net.from_name('small')", (5, 1)),
    ],
)
def test_factories(expression: str, shape: tuple[int, int], networks: None, capsys: pytest.CaptureFixture[str]) -> None:
    network = build(f"tried_networks:{expression}")
    assert isinstance(network.layer, nn.Linear)
    assert tuple(network.layer.weight.shape) == shape
    assert capsys.readouterr().out == ""  # stdout belongs to --format json


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("Net(", "cannot read architecture"),
        ("Net(print('x'))", "cannot read architecture"),
        ("Net()()", "cannot read architecture"),
        ("Net(**{'a': 1}, b=c)", "cannot read architecture"),
        ("Nett", "has no attribute 'Nett'"),
        ("Net(unknown=1)", "cannot be made: TypeError"),
        ("Net.from_name('large')", "cannot be made: KeyError: 'large'"),
        ("number", "makes a int, not a torch.nn.Module"),
    ],
)
def test_what_is_no_factory(expression: str, message: str, networks: None) -> None:
    with pytest.raises(UsageError) as caught:
        build(f"tried_networks:{expression}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_of_this_folder_and_a_name_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: None
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "beside_the_weights.py").touch()
    with pytest.raises(UsageError, match=r"write PYTHONPATH=\. before the command, as that file is here"):
        build("beside_the_weights:Net")
    with pytest.raises(UsageError, match="has no attribute 'Nett'; name a class or function of it"):
        build("tried_networks:Nett")


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean resnet50"):
        build("resnet-50")
    with pytest.raises(UsageError, match=r"No module named 'no_such_package'.*PYTHONPATH"):
        build("no_such_package:Net")
    pytest.importorskip("timm")
    with pytest.raises(UnknownName, match="timm architecture"):
        build("timm:resnet-50")


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet18(num_classes=37)",
        "torchvision:resnet18(num_classes=37)",
        "timm:resnet10t(num_classes=37)",
        "resnet10t(num_classes=37)",
        "timm:resnet10t.c3_in1k(num_classes=37)",
    ],
)
def test_named_networks_are_called_with_literals(architecture: str) -> None:
    pytest.importorskip("timm")
    assert build(architecture).fc.weight.shape[0] == 37
    assert build(architecture, classes=5).fc.weight.shape[0] == 37


def test_named_networks_get_as_many_classes_as_are_asked_for() -> None:
    assert build("torchvision:resnet18", classes=37).fc.weight.shape == (37, 512)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("torchvision:resnet10t", "unknown torchvision architecture 'resnet10t'"),
        ("torchvision:resnet18(classes=3)", "unexpected keyword argument 'classes'"),
        ("timm:resnet10t(num_classes=print(1))", "cannot read architecture"),
    ],
)
def test_named_networks_that_cannot_be(architecture: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(architecture)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("with_a_typo:make", "architecture 'with_a_typo:make': SyntaxError: invalid syntax"),
        ("without_its_data:make", "RuntimeError: no file of weights"),
        ("without_its_variable:make", "KeyError: 'SURELY_NOT_SET'"),
        (".networks:make", "architecture '.networks:make': TypeError: the 'package' argument is required"),
        ("resnet18({[1]: 2})", "cannot read architecture"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    architecture: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        build(architecture)
    assert message in str(caught.value)
