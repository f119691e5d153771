"""Every published layout, written small or whole, and read through the real code."""

from __future__ import annotations

import argparse
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from bandlens.errors import CheckpointError
from bandlens.export.photographs import photograph_crops
from bandlens.export.registry import KeyRule, checkpoints, key_rule
from bandlens.export.weights import Weights, apply_rule, load_strictly, read, read_weights

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def without_head(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def head(state: State) -> State:
    return {f"module.linear.{key[3:]}": value for key, value in state.items() if key.startswith("fc.")}


def simclr_key(key: str, stem: str) -> str:
    """torchvision's name -> the name in the converted TensorFlow checkpoint."""
    if key.startswith("fc."):
        return key
    if not key.startswith("layer"):
        return key.replace("conv1.", f"{stem}0.").replace("bn1.", f"{stem}1.0.")
    stage, block, module, *rest = key.removeprefix("layer").split(".")
    if module == "downsample":
        module = {"0": "projection.shortcut", "1": "projection.bn.0"}[rest.pop(0)]
    else:
        order = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"].index(module)
        module = f"net.{order}" + (".0" if order % 2 else "")
    return ".".join([f"net.{stage}.blocks.{block}", module, *rest])


class Parameters:
    """Stands for an options class of a training script, pickled beside the weights."""

    def __init__(self, **options: Any) -> None:
        self.options = options


def training_leftovers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What scripts save besides: objects of a package that is not installed here, options, numpy scalars."""
    for name in ("cox", "cox.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(Parameters, "__module__", "cox.utils")
    monkeypatch.setattr(sys.modules["cox.utils"], "Parameters", Parameters, raising=False)
    return {
        "epoch": 105,
        "args": Parameters(arch="resnet50", eps=np.float64(3.0)),
        "options": argparse.Namespace(lr=0.1),
        "prec1": np.float32(62.8),
        "history": np.arange(3),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }


def layouts(name: str, state: State) -> list[tuple[str, Any]]:
    """The (key rule, content) of each file of a layout."""
    return {
        "plain": [("plain", state)],
        "plain without counters": [
            ("plain", {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
        ],
        "state_dict": [("module", {"state_dict": prefixed("module.", state), "epoch": 90, "arch": "resnet50"})],
        "model_state_dict": [("module", {"model_state_dict": prefixed("module.", state)})],
        "online_backbone": [("module", {"online_backbone": state, "target": {}})],
        "module at top": [("module", prefixed("module.", state))],
        "model": [("module_model", {"model": prefixed("module.", state), "ema": {}})],
        "aux_bn": [
            (
                "aux_bn",
                {
                    "state_dict": prefixed("module.", state)
                    | {f"module.layer1.0.bn1.aux_bn.{key}": torch.zeros(64) for key in ("weight", "running_mean")}
                },
            )
        ],
        "dino": [("plain", without_head(state)), ("linear_head", {"state_dict": head(state), "epoch": 100})],
        "swav": [
            (
                "swav",
                prefixed("module.", without_head(state))
                | {"module.projection_head.0.weight": torch.zeros(2, 2), "module.prototypes.weight": torch.zeros(3, 2)},
            ),
            ("linear_head", {"state_dict": head(state)}),
        ],
        "simclrv2": [("simclrv2", {"resnet": {simclr_key(key, "net.0."): value for key, value in state.items()}})],
        "simclrv2 net0": [("simclrv2", {"resnet": {simclr_key(key, "net0."): value for key, value in state.items()}})],
    }[name]


LAYOUTS = (
    "plain",
    "plain without counters",
    "state_dict",
    "model_state_dict",
    "online_backbone",
    "module at top",
    "model",
    "aux_bn",
    "dino",
    "swav",
    "simclrv2",
    "simclrv2 net0",
)


def same_logits(network: nn.Module, other: nn.Module) -> bool:
    images = torch.from_numpy(photograph_crops(64)[::3])
    with torch.no_grad():
        expected = network(images)
        assert len(set(expected.argmax(dim=1).tolist())) > 1  # or anything would be equal to it
        return torch.equal(expected, other(images))


def loads_as(network: nn.Module, files: list[tuple[Path, str]], trust: bool = False) -> Weights:
    weights = read_weights(files, trust)
    loaded = torchvision.models.resnet50(weights=None).eval()
    assert load_strictly(loaded, weights, "weights.pth") == 267
    assert same_logits(network, loaded)
    return weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_network_it_was_made_of(layout: str, resnet50: nn.Module, tmp_path: Path) -> None:
    files = []
    for number, (rule, content) in enumerate(layouts(layout, resnet50.state_dict())):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        files.append((path, rule))
    weights = loads_as(resnet50, files)
    surplus = {
        "aux_bn": [["module.layer1.0.bn1.aux_bn.weight", "module.layer1.0.bn1.aux_bn.running_mean"]],
        "swav": [["module.projection_head.0.weight", "module.prototypes.weight"]],
    }
    assert list(weights.dropped.values()) == surplus.get(layout, [])
    for path, _ in files:
        path.unlink()


def test_every_rule_is_among_the_layouts() -> None:
    used = {part.rule for one in checkpoints() for part in one.parts}
    tried = {rule for layout in LAYOUTS for rule, _ in layouts(layout, {"fc.weight": torch.zeros(1)})}
    assert used == tried | {"robust"}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_robust_containers(
    legacy: bool, resnet50: nn.Module, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = resnet50.state_dict()
    around = {
        "module.normalizer.new_mean": torch.zeros(3, 1, 1),
        "module.attacker.normalize.new_std": torch.ones(3, 1, 1),
    }
    content = {
        "model": prefixed("module.model.", state) | prefixed("module.attacker.model.", state) | around
    } | training_leftovers(monkeypatch)
    torch.save(content, weights_file, _use_new_zipfile_serialization=not legacy, pickle_protocol=2 if legacy else 4)
    monkeypatch.undo()
    assert "cox" not in sys.modules

    weights = loads_as(resnet50, [(weights_file, "robust")])
    (dropped,) = weights.dropped.values()
    assert len(dropped) == 2 + len(state)
    assert "cox" not in sys.modules


def test_timm_safetensors(resnet50: nn.Module, weights_file: Path) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet50", pretrained=False)
    assert network.state_dict().keys() == resnet50.state_dict().keys()
    network.load_state_dict(resnet50.state_dict())
    save_file(network.state_dict(), weights_file)  # recognised by its content, whatever its name
    assert same_logits(resnet50, network.eval())
    loads_as(resnet50, [(weights_file, "plain")])


def test_counts_of_tensors(resnet50: nn.Module) -> None:
    assert len(list(resnet50.parameters())) == 161
    running = [name for name, _ in resnet50.named_buffers() if "running" in name]
    counters = [name for name, _ in resnet50.named_buffers() if "num_batches" in name]
    assert (len(running), len(counters)) == (106, 53)


def test_what_does_not_fit_is_named_and_counted(resnet18: nn.Module) -> None:
    state = dict(resnet18.state_dict())
    del state["conv1.weight"]
    state |= {"fc.weight": torch.zeros(10, 512), "bn1.bias": torch.full((64,), torch.nan)}
    state |= {f"extra.{number}": torch.zeros(1) for number in range(5)}
    before = {key: value.clone() for key, value in resnet18.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(resnet18, Weights(state), "mine.pth")
    message = str(caught.value)
    assert message.startswith("mine.pth does not fit the architecture: 1 missing (conv1.weight); 5 surplus (extra.0, ")
    assert "and 2 more)" in message
    assert "1 misshapen (fc.weight (10, 512) instead of (1000, 512))" in message
    assert "1 not finite (bn1.bias)" in message
    assert "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in resnet18.state_dict().items())


def test_two_keys_for_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match=re.escape("two keys become 'a'")):
        apply_rule(key_rule("module"), {"a": torch.zeros(1), "module.a": torch.zeros(1)}, "x.pth")


def test_a_head_that_is_there_twice_is_refused(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "whole.pth")
    torch.save({"state_dict": head(resnet18.state_dict())}, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"fc.bias, fc.weight also came from"):
        read_weights([(tmp_path / "whole.pth", "plain"), (tmp_path / "head.pth", "linear_head")])


def test_contents_without_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match="finds no tensors among epoch, args"):
        apply_rule(key_rule("plain"), {"epoch": 1, "args": {}}, "x.pth")
    with pytest.raises(CheckpointError, match="holds one Tensor"):
        apply_rule(KeyRule("plain"), torch.zeros(2), "x.pth")
    assert apply_rule(KeyRule("plain"), {"a": torch.zeros(1), "epoch": 1}, "x.pth").dropped == {
        "not a tensor": ["epoch"]
    }


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError, match="no weights at"):
        read(path)
    path.write_text("<!DOCTYPE html><html><head><title>Sign\n in</title></head></html>")
    with pytest.raises(CheckpointError, match=r"is a web page \('Sign in'\)"):
        read(path)
    torch.save({"a": torch.zeros(1000)}, path)
    for content in (path.read_bytes()[:-500], b"", b"\x80\x02garbage", bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot read weights from") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read(path)
