"""Functions as models: what they are known by, and that a study of one is that of the same network as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from small import ask, make_images, make_model, make_pictures, make_study

import bandlens
from bandlens import UsageError
from bandlens.export import functions
from bandlens.export.model_files import load_model, model_names

Images = NDArray[np.float32]
PREDICTIONS = (
    "SELECT checkpoint, probe, parameters, image_index, predicted, label_rank, round(confidence, 5) "
    "FROM study_detail JOIN prediction USING (cell) ORDER BY ALL"
)


@pytest.fixture
def network(tmp_path: Path) -> Callable[[Images], Images]:
    """The logits of the model `file`, exported into models, of images whose channels come second."""
    model = make_model(tmp_path / "models", "file")
    session = onnxruntime.InferenceSession(model.path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(images: Images) -> Images:
        return np.asarray(session.run(None, {"images": images})[0])

    return run


def test_a_study_of_a_function_is_that_of_the_same_network(tmp_path: Path, network: Callable[[Images], Images]) -> None:
    make_images(tmp_path / "images.set", make_pictures(11), labels=[0, 1] * 5 + [2])
    probes = "lowpass = {cutoff = [0.2, 0.5]}"
    answers: dict[str, Any] = {}
    for layout in ("nhwc", "nchw"):

        def function(images: Images, layout: str = layout) -> list[list[float]]:
            assert images.shape == {"nhwc": (len(images), 128, 128, 3), "nchw": (len(images), 3, 128, 128)}[layout]
            planes = images.transpose(0, 3, 1, 2) if layout == "nhwc" else images
            return network(np.ascontiguousarray(planes)).tolist()

        model = bandlens.export_function(function, "file", "1", layout=layout, image_size=128, out=tmp_path / layout)
        assert model == load_model(tmp_path / layout, "file")
        study = make_study(tmp_path, models=layout, checkpoints=["file"], engine="auto", probes=probes)
        bandlens.run(study, tmp_path / f"{layout}.duckdb", analyze=False)
        answers[layout] = ask(tmp_path / f"{layout}.duckdb", PREDICTIONS)
    bandlens.run(make_study(tmp_path, checkpoints=["file"], probes=probes), tmp_path / "r.duckdb", analyze=False)
    answers["file"] = ask(tmp_path / "r.duckdb", PREDICTIONS)
    assert answers["nhwc"] == answers["nchw"] == answers["file"] != []


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_function_that_writes_into_its_images_changes_them_for_no_other(layout: functions.Layout) -> None:
    def darken(images: Images) -> Images:
        images *= 0.5
        return images.reshape(len(images), -1)[:, :5]

    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    before = images.copy()
    functions.logits_of(darken, images, layout, "darken")
    np.testing.assert_array_equal(images, before)


def test_a_version_is_an_identity(tmp_path: Path) -> None:
    def answer(images: Images) -> Images:
        return images.mean((1, 2))

    models = [bandlens.export_function(answer, "mean", version, out=tmp_path) for version in ("1", "2", "1")]
    assert models[0].sha256 == models[2].sha256 != models[1].sha256
    assert model_names(tmp_path) == ["mean"]
    assert models[0].classes == 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda images: images.mean((1, 2, 3)),
            r"f gave shape \(2,\) for images of shape \(2, 224, 224, 3\); it must give 2 x classes logits; .*\[-d / 2,",
        ),
        (lambda images: images[:1].mean((1, 2)), r"function f gave shape \(1, 3\)"),
        (lambda images: images.mean((1, 2))[:, :1], "function f gives 1 class; a classifier has 2 to 65,536"),
        (lambda images: images.mean((1, 2)) * np.nan, "logits that are no numbers"),
        (lambda images: np.full((len(images), 4), 0.25), r"gives probabilities, not logits; return logits, or np\.log"),
        (
            lambda images: np.random.default_rng().random((len(images), 3)),
            r"function f gives other logits when it is asked again for the same images; .*network\.eval\(\)",
        ),
        (lambda images: images.nothing, "function f raised AttributeError: .*no attribute 'nothing'"),
    ],
)
def test_what_gives_no_logits_is_one_line(tmp_path: Path, function: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        bandlens.export_function(function, "f", "1", out=tmp_path / "models")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "models").exists()


def test_another_process_and_another_engine_refuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images.set", make_pictures(4))
    bandlens.export_function(lambda images: images.mean((1, 2)), "f", "1", image_size=128, out=tmp_path / "models")
    study = bandlens.Study.read(make_study(tmp_path, probes="lowpass = {cutoff = 0.5}", engine="onnxruntime"))
    with pytest.raises(UsageError, match="f is a function, and engine function runs functions alone"):
        bandlens.run(study, tmp_path / "r.duckdb")
    monkeypatch.setattr(functions, "_functions", {})
    with pytest.raises(bandlens.EngineError, match=r"f is a function, which lives in the Python that gave it; give it"):
        bandlens.run(study, tmp_path / "r.duckdb", engine="auto")
