"""The package's own names: what Python code calls, beside the commands of the same names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_export  # noqa: F401 - many tests export
import torch
from imports_of_folders import PACKAGE
from polars.testing import assert_frame_equal
from small import Command, make_model, refusal
from torch import nn

import bandlens
from bandlens.core.protocol import BIAS_CUTOFFS
from bandlens.export.model_files import load_model
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.reference_images import photograph_crops

USUAL: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "image_size": 64}
FILTERS = {probe: {"cutoff": list(BIAS_CUTOFFS)} for probe in ("lowpass", "highpass")}


def make_network() -> nn.Module:
    """A network in the middle of its training, with dropout and statistics of batches."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AvgPool2d(3, 4),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    network.train()(torch.from_numpy(photograph_crops(64)))
    return network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network, and the folder to which it was exported as `mine`."""
    network, folder = make_network(), tmp_path_factory.mktemp("models")
    bandlens.export_model(network, "mine", **USUAL, out=folder)
    return network, folder


def study_of(folder: Path, **keys: Any) -> bandlens.Study:
    usual = {"name": "mine", "checkpoints": ["*"], "images": ["images.set"], "models": "models", "threads": 1}
    return bandlens.Study(**usual | {"engine": "onnxruntime", "folder": folder, "probes": FILTERS} | keys)


# Export


def test_a_network_in_memory_is_exported_as_it_computes_in_evaluation(trained: tuple[nn.Module, Path]) -> None:
    network, folder = trained
    model = load_model(folder, "mine")
    assert (model.image_size, model.classes, model.source) == (64, 10, "memory")
    images = photograph_crops(64)
    mean, std = (torch.tensor(USUAL[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = network.eval()((torch.from_numpy(images) - mean) / std).numpy()
    network.train()
    np.testing.assert_allclose(onnx_logits(model.path.read_bytes(), images), expected, atol=1e-5)


def test_a_training_goes_on_as_if_nothing_had_been_exported(tmp_path: Path) -> None:
    network, weights = make_network(), make_network().state_dict()
    state = torch.get_rng_state()
    bandlens.export_model(network, "mine", **USUAL, out=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(weights[key], tensor) for key, tensor in network.state_dict().items())


def test_weights_are_told_apart_by_their_values_and_names(trained: tuple[nn.Module, Path]) -> None:
    from bandlens.export.pipeline import sha256_of_tensors

    network = make_network()
    first = sha256_of_tensors(network)
    assert first == sha256_of_tensors(trained[0]) == load_model(trained[1], "mine").weights_sha256
    assert first != sha256_of_tensors(nn.ModuleDict({"inside": network}))
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1
    assert sha256_of_tensors(network) != first


@pytest.mark.parametrize(
    ("source", "keys", "message"),
    [
        ("tv_resnet5", {}, "unknown checkpoint 'tv_resnet5'; did you mean tv_resnet50"),
        ("tv_resnet50", {"name": "x"}, "tv_resnet50 is no file, and a checkpoint has its own name"),
        (nn.ReLU(), {}, "give the model a name, and the mean and std"),
        (nn.ReLU(), {"name": "x"}, "give x the mean and std"),
        (nn.ReLU(), USUAL | {"name": "x", "std": 0}, "std must be three numbers, one a channel, or one number for all"),
        (nn.ReLU(), USUAL | {"name": "x", "mean": 123.68}, "mean must be three numbers, one a channel, or one number"),
        (nn.ReLU(), USUAL | {"name": "a/b"}, "'a/b' cannot name a model"),
        (Path("none.onnx"), USUAL | {"name": "x"}, "no file at none.onnx; check the path"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told_in_one_line(
    source: Any, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refusal(bandlens.export_model, source, **keys, out=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_one_precision_is_a_list_of_it() -> None:
    assert bandlens.Lowering(precisions="int8").precisions == ("int8",)


def test_outputs_are_believed_to_be_logits_where_the_user_says_so(tmp_path: Path) -> None:
    options = {**USUAL, "out": tmp_path}
    network = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    message = refusal(bandlens.export_model, network, "mine", kind=bandlens.BandlensError, **options)
    assert "give it a head of classes: bandlens.export_model(bandlens.Backbone(network, SET), …); if" in message
    assert message.endswith('say so with bandlens.export_model(network, …, outputs="logits")')
    assert bandlens.export_model(network, "mine", outputs="logits", **options).classes == 8
    backbone = bandlens.Backbone(network, np.eye(8), class_names=list("abcdefgh"))
    assert "leave it out" in refusal(bandlens.export_model, backbone, "b", outputs="logits", **options)
    assert "classes of its own" in refusal(bandlens.export_model, "tv_resnet50", outputs="logits", out=tmp_path)


# Study, plan, run, analyze, compare, report


def test_a_single_name_is_no_list_of_its_letters(workplace: Path, tmp_path: Path) -> None:
    for act, words in (
        (lambda: bandlens.remove_images(workplace / "images.set", "no.png"), "'no.png'"),
        (lambda: bandlens.merge("none.duckdb", tmp_path / "x.duckdb"), "no results database at none.duckdb"),
        (lambda: bandlens.correlate(biases="shape"), "unknown bias 'shape'"),
        (lambda: list(bandlens.fetch_weights("tv_resnet")), "'tv_resnet'"),
        (lambda: bandlens.run(study_of(workplace), tmp_path / "r.duckdb", devices="cpu,gpu"), "`devices` cpu,gpu:"),
    ):
        assert words in refusal(act)


def test_progress_is_told_to_whoever_asks(workplace: Path) -> None:
    counts: dict[str, list[float]] = {}

    @contextmanager
    def count_progress(activity: str, total: float | None, unit: str) -> Iterator[Any]:
        counts[f"{activity}, {unit}"] = [total or 0, 0]

        def advance(amount: float = 1, /) -> None:
            counts[f"{activity}, {unit}"][1] += amount

        yield advance

    database = workplace / "results.duckdb"
    bandlens.run(study_of(workplace), database, progress=count_progress, analyze=False)
    bandlens.analyze(database, progress=count_progress)
    assert counts["running, predictions"] == [220, 220]
    assert counts["opening, models"] == counts["analyzing, checkpoints and image sets"] == [1, 1]


def test_biases_comparison_and_report_are_those_of_the_commands(workplace: Path, command: Command) -> None:
    """One of the names has spaces, and its category, too."""
    bandlens.categorize_model(make_model(workplace / "models", "my net (v2)", seed=1), "my nets")
    database = workplace / "results.duckdb"
    bandlens.run(study_of(workplace, checkpoints=["category:my nets", "one"]), database, analyze=False)
    metrics = bandlens.analyze(database, "mine")
    with bandlens.open(database) as results:
        stored_metrics = results.metrics("mine").select("checkpoint", "metric", "value").sort("checkpoint", "metric")
    assert_frame_equal(metrics.select(stored_metrics.columns).sort("checkpoint", "metric"), stored_metrics)
    assert "checkpoints is ('one',): give one of A and one of B" in refusal(
        bandlens.compare, "mine", db=database, checkpoints=("one",)
    )
    comparison = bandlens.compare("mine", db=database, checkpoints=("one", "my net (v2)"))
    assert len(comparison.cells) == 11
    answer = command("compare", "mine", "--checkpoints", "one,my net (v2)", "--db", database)
    assert comparison.verdict.sentences[0] in answer.out.splitlines()
    report = bandlens.report(database, str(workplace / "report.html"))
    assert report.out.stat().st_size == report.bytes > 100_000
    assert "my net (v2)" in report.out.read_text()


def test_a_folder_without_image_sets_is_not_explored(stored_study: Path, tmp_path: Path) -> None:
    for name in ("nowhere", "models"):
        (tmp_path / name).mkdir()
    message = refusal(bandlens.explore, stored_study, [tmp_path / "nowhere", tmp_path / "models"])
    assert message.startswith(f"no image set in {tmp_path}/nowhere, {tmp_path}/models, nor 4 folders down; name with")


def test_what_is_no_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bandlens' has no attribute 'exporrt'"):
        _ = bandlens.exporrt
    assert {"Study", "run", "export_model"} <= set(dir(bandlens))


def test_every_name_of_the_stub_is_there_and_stands_in_the_guide() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8"))
    names = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == {name for name in dir(bandlens) if name in names and hasattr(bandlens, name)}
    guide = (PACKAGE / "docs/guide/python.md").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", guide)] == []
