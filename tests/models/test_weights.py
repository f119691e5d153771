"""Every published layout, written small or whole, and read through the real code."""

from __future__ import annotations

import argparse
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from bandlens.core.errors import CheckpointError
from bandlens.export.reference_images import photograph_crops
from bandlens.export.weights.read import Weights, apply_rule, load_strictly, read, read_weights
from bandlens.export.weights.study_checkpoints import KeyRule, checkpoints, key_rule

State = dict[str, Tensor]


def add_prefix(prefix: str, state: State) -> State:
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
    """Values that scripts save besides: objects of a package that is not installed here, options, numpy scalars."""
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


def layouts(state: State) -> dict[str, list[tuple[str, Any]]]:
    """Layout -> the (key rule, content) of each of its files."""
    return {
        "plain": [("plain", state)],
        "plain without counters": [
            ("plain", {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")})
        ],
        "state_dict": [("module", {"state_dict": add_prefix("module.", state), "epoch": 90, "arch": "resnet50"})],
        "model_state_dict": [("module", {"model_state_dict": add_prefix("module.", state)})],
        "online_backbone": [("module", {"online_backbone": state, "target": {}})],
        "module at top": [("module", add_prefix("module.", state))],
        "model": [("module_model", {"model": add_prefix("module.", state), "ema": {}})],
        "aux_bn": [
            (
                "aux_bn",
                {
                    "state_dict": add_prefix("module.", state)
                    | {f"module.layer1.0.bn1.aux_bn.{key}": torch.zeros(64) for key in ("weight", "running_mean")}
                },
            )
        ],
        "dino": [("plain", without_head(state)), ("linear_head", {"state_dict": head(state), "epoch": 100})],
        "swav": [
            (
                "swav",
                add_prefix("module.", without_head(state))
                | {"module.projection_head.0.weight": torch.zeros(2, 2), "module.prototypes.weight": torch.zeros(3, 2)},
            ),
            ("linear_head", {"state_dict": head(state)}),
        ],
        "simclrv2": [("simclrv2", {"resnet": {simclr_key(key, "net.0."): value for key, value in state.items()}})],
        "simclrv2 net0": [("simclrv2", {"resnet": {simclr_key(key, "net0."): value for key, value in state.items()}})],
    }


def same_logits(network: nn.Module, reference: nn.Module) -> bool:
    images = torch.from_numpy(photograph_crops(64)[::3])
    with torch.no_grad():
        expected = network(images)
        assert len(set(expected.argmax(dim=1).tolist())) > 1  # without these lines anything would be equal to it
        return torch.equal(expected, reference(images))


def bottlenecks() -> nn.Module:
    """A ResNet with the names of a ResNet-50's modules, and a block of each size."""
    return torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=8)


@pytest.fixture(scope="module")
def network(randomize: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return randomize(bottlenecks())


def loads_as(network: nn.Module, files: list[tuple[Path, str]]) -> Weights:
    weights = read_weights(files)
    copy = bottlenecks().eval()
    load_strictly(copy, weights, "weights.pth")
    assert same_logits(network, copy)
    return weights


@pytest.mark.parametrize("layout", layouts({}))
def test_each_layout_gives_the_network_it_was_made_of(layout: str, network: nn.Module, tmp_path: Path) -> None:
    files = []
    for number, (rule, content) in enumerate(layouts(network.state_dict())[layout]):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        files.append((path, rule))
    weights = loads_as(network, files)
    surplus = {
        "aux_bn": [["module.layer1.0.bn1.aux_bn.weight", "module.layer1.0.bn1.aux_bn.running_mean"]],
        "swav": [["module.projection_head.0.weight", "module.prototypes.weight"]],
    }
    assert list(weights.dropped.values()) == surplus.get(layout, [])


def test_every_rule_is_among_the_layouts() -> None:
    checkpoint_rules = {part.rule for checkpoint in checkpoints() for part in checkpoint.parts}
    layout_rules = {rule for files in layouts({}).values() for rule, _ in files}
    assert checkpoint_rules == layout_rules | {"robust"}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_robust_containers(legacy: bool, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, state = tmp_path / "weights.pth", network.state_dict()
    around = {
        "module.normalizer.new_mean": torch.zeros(3, 1, 1),
        "module.attacker.normalize.new_std": torch.ones(3, 1, 1),
    }
    content = {
        "model": add_prefix("module.model.", state) | add_prefix("module.attacker.model.", state) | around
    } | training_leftovers(monkeypatch)
    torch.save(content, file, _use_new_zipfile_serialization=not legacy, pickle_protocol=2 if legacy else 4)
    monkeypatch.undo()
    assert "cox" not in sys.modules

    weights = loads_as(network, [(file, "robust")])
    (dropped,) = weights.dropped.values()
    assert len(dropped) == 2 + len(state)
    assert "cox" not in sys.modules


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


@pytest.fixture
def small_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), flat=nn.Flatten(), fc=nn.Linear(4, 2))
    )


def scale(state: State, factor: float) -> State:
    return {key: value * factor if value.is_floating_point() else value for key, value in state.items()}


def open_weights(content: object, network: nn.Module, file: Path, choice: str | None = None) -> Weights:
    torch.save(content, file)
    return read_weights([(file, "own")], choice=choice, expected=network.state_dict().keys())


def wrap(state: State) -> dict[str, object]:
    """Layout -> the file that training scripts make of a network's state, all of it the network's own weights."""
    average = torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Linear(1, 1))).state_dict()
    return {
        "lightning model.": {"state_dict": add_prefix("model.", state), "pytorch-lightning_version": "2.4", "epoch": 3},
        "lightning compiled": {"state_dict": add_prefix("model._orig_mod.", state)},
        "backbone.": add_prefix("backbone.", state),
        "compiled, then parallel": {"model": add_prefix("module._orig_mod.", state)},
        "parallel, then compiled": {"model": add_prefix("_orig_mod.module.", state)},
        "state_dict_ema": {"state_dict_ema": state, "epoch": 3},
        "model_ema": {"model_ema": add_prefix("module.", state), "epoch": 3},
        "net": {"net": add_prefix("module.", state), "acc": 93.1},
        "weights": {"weights": state},
        "nested": {"model": {"state_dict": add_prefix("module.", state), "config": {"width": 1}}},
        "average": add_prefix("module.", state) | {"n_averaged": average["n_averaged"]},
        "average in a container": {
            "swa": {"epoch": 1},
            "state_dict": add_prefix("model.module.", state) | {"model.n_averaged": average["n_averaged"]},
        },
    }


@pytest.mark.parametrize("layout", wrap({}))
def test_the_usual_layouts_open_by_themselves(layout: str, small_network: nn.Module, weights_file: Path) -> None:
    state = small_network.state_dict()
    weights = open_weights(wrap(state)[layout], small_network, weights_file)
    assert weights.tensors.keys() == state.keys()
    assert all(torch.equal(weights.tensors[key], state[key]) for key in state)
    assert weights.alternatives == []
    assert weights.averaged == (layout in ("state_dict_ema", "model_ema"))


def with_average(layout: str, state: State) -> tuple[object, str, str]:
    """A file with the weights and their average, which is the double, and the names of the two."""
    double = scale(state, 2.0)
    return {
        "timm": ({"state_dict": state, "state_dict_ema": double, "arch": "resnet18"}, "state_dict", "state_dict_ema"),
        "torchvision": ({"model": state, "model_ema": add_prefix("module.", double)}, "model", "model_ema"),
        "nested": ({"model": state, "ema": {"module": double, "decay": 0.99}}, "model", "ema.module"),
        "plain": ({**state, "ema": double}, "top level", "ema"),
        "keys": (
            {"state_dict": add_prefix("model.", state) | add_prefix("ema_model.module.", double)},
            "state_dict",
            "state_dict.ema_model",
        ),
    }[layout]


@pytest.mark.parametrize("layout", ["timm", "torchvision", "nested", "plain", "keys"])
def test_of_weights_and_their_average_the_average_is_taken_and_both_are_named(
    layout: str, small_network: nn.Module, weights_file: Path
) -> None:
    state = small_network.state_dict()
    content, raw, ema = with_average(layout, state)
    for choice, container, rest in ((None, ema, raw), ("raw", raw, ema), (ema, ema, raw)):
        weights = open_weights(content, small_network, weights_file, choice)
        assert (weights.container, weights.alternatives, weights.averaged) == (container, [rest], container == ema)
        assert torch.equal(weights.tensors["fc.weight"], state["fc.weight"] * (2 if container == ema else 1))
        assert weights.tensors.keys() == state.keys()


def test_a_key_names_weights_that_no_rule_knows(small_network: nn.Module, weights_file: Path) -> None:
    state = small_network.state_dict()
    content: dict[str, object] = {"teacher": scale(state, 2.0), "student": state, "epoch": 3}
    with pytest.raises(
        CheckpointError, match=r"only the keys teacher, student, epoch; name with --weights KEY .*: teacher, student"
    ):
        open_weights(content, small_network, weights_file)
    weights = open_weights(content, small_network, weights_file, "student")
    assert (weights.container, weights.alternatives) == ("student", ["teacher"])
    with pytest.raises(CheckpointError, match=r"holds no weights 'ema', only the keys teacher"):
        open_weights(content, small_network, weights_file, "ema")
    with pytest.raises(CheckpointError, match=r"holds no weights 'pupil', only the keys teacher"):
        open_weights(content, small_network, weights_file, "pupil")
    flat = {"state_dict": add_prefix("model.", state) | add_prefix("backbone.", scale(state, 2.0))}
    with pytest.raises(CheckpointError, match=r"two keys become 'conv1.weight'.*model.conv1.weight.*--weights"):
        open_weights(flat, small_network, weights_file)
    weights = open_weights(flat, small_network, weights_file, "backbone")
    assert torch.equal(weights.tensors["fc.weight"], 2 * state["fc.weight"])


def test_the_counters_of_an_average_are_no_weights(small_network: nn.Module, weights_file: Path) -> None:
    content = {"state_dict": small_network.state_dict(), "ema": {"decay": torch.tensor(0.99)}}
    weights = open_weights(content, small_network, weights_file)
    assert (weights.container, weights.alternatives, weights.averaged) == ("state_dict", [], False)


def test_names_that_begin_like_a_wrapper_stay(tmp_path: Path) -> None:
    network = nn.ModuleDict({"model": nn.ModuleDict({"backbone": nn.Linear(2, 2)}), "fc": nn.Linear(2, 2)})
    for wrapper in ("", "model.", "net._orig_mod."):
        weights = open_weights(add_prefix(wrapper, network.state_dict()), network, tmp_path / "odd.pth")
        assert weights.tensors.keys() == network.state_dict().keys()


def test_of_the_48_no_average_is_taken(small_network: nn.Module) -> None:
    content, _, _ = with_average("torchvision", small_network.state_dict())
    weights = apply_rule(key_rule("module_model"), content, "x.pth", "raw")
    assert (weights.container, weights.alternatives, weights.averaged) == ("model", ["model_ema"], False)


def test_what_does_not_fit_is_named_and_counted(resnet18: nn.Module) -> None:
    state = dict(resnet18.state_dict())
    del state["conv1.weight"]
    state |= {"fc.weight": torch.zeros(10, 512), "bn1.bias": torch.full((64,), torch.nan)}
    state |= {f"extra.{number}": torch.zeros(1) for number in range(5)}
    original_state = {key: value.clone() for key, value in resnet18.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_strictly(resnet18, Weights(state), "mine.pth")
    message = str(error.value)
    assert message.startswith("mine.pth does not fit the architecture: 1 missing (conv1.weight); 5 surplus (extra.0, ")
    assert "and 2 more)" in message
    assert "1 misshapen (fc.weight (10, 512) instead of (1000, 512))" in message
    assert "1 not finite (bn1.bias)" in message
    assert "\n" not in message
    assert all(torch.equal(value, original_state[key]) for key, value in resnet18.state_dict().items())


def test_weights_that_fit_and_have_diverged_are_not_said_to_be_of_another_architecture() -> None:
    network = nn.Linear(2, 2)
    state = {"weight": torch.zeros(2, 2), "bias": torch.full((2,), torch.nan)}
    message = "mine.pth holds values that are not finite, in bias; take weights from before its training diverged"
    with pytest.raises(CheckpointError, match=f"^{message}$"):
        load_strictly(network, Weights(state), "mine.pth")


def test_a_head_that_is_there_twice_is_refused(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "whole.pth")
    torch.save({"state_dict": head(resnet18.state_dict())}, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"fc.bias, fc.weight also came from"):
        read_weights([(tmp_path / "whole.pth", "plain"), (tmp_path / "head.pth", "linear_head")])


def test_contents_without_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"^x.pth holds no tensors, only epoch \(int\), args \(dict\); give"):
        apply_rule(key_rule("plain"), {"epoch": 1, "args": {}}, "x.pth")
    with pytest.raises(CheckpointError, match="holds one Tensor"):
        apply_rule(KeyRule("plain"), torch.zeros(2), "x.pth")
    content = {"a": torch.zeros(1), "epoch": 1, "optimizer": {"state": {}}}
    assert apply_rule(KeyRule("plain"), content, "x.pth").dropped == {"not a tensor": ["epoch", "optimizer"]}


def test_files_that_are_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError, match="no weights at"):
        read(path)
    path.write_text("<!DOCTYPE html><html><head><title>Sign\n in</title></head></html>")
    with pytest.raises(CheckpointError, match=r"is a web page \('Sign in'\)"):
        read(path)
    for content, kind in ((b"epoch: 1\n" * 9, "text"), (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG picture")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"is {kind}, not weights; give a file that torch.save or safetens"):
            read(path)
    torch.save({"a": torch.zeros(1000)}, path)
    for content in (path.read_bytes()[:-500], b"", b"\x80\x02garbage", bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot read weights from") as error:
            read(path)
        assert "\n" not in str(error.value)
    np.savez_compressed(path, a=np.zeros(3))
    path.with_suffix(".pth.npz").replace(path)
    with pytest.raises(CheckpointError, match="NumPy arrays"):
        read(path)
