"""Functions in memory: their stored predictions are reused where the function still computes them, and refused else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small import ask, make_images, make_model, make_pictures

import bandlens
from bandlens.app.study.summary import Summary

COUNT = 20
Images = NDArray[np.float32]
Run = Callable[..., Summary]


class Level:
    """The state that functions of these tests read."""

    factor = 1.0


@pytest.fixture(autouse=True)
def level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Level, "factor", 1.0)


def darken(images: Images) -> Images:
    return images * Level.factor


def shades(images: Images) -> Images:
    """Logits of (n, height, width, 3) images."""
    return Level.factor * images.mean((1, 2))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a study of 20 images with the probe `darken`; the keywords are keys of the study."""
    make_model(tmp_path / "models")
    make_images(tmp_path / "images.set", make_pictures(COUNT))

    def run(table: Any, **keys: Any) -> Summary:
        probes = {"darken": table} if table else {"lowpass": {"cutoff": 0.5}}
        given = {"models": "models", "checkpoints": ["one"], "images": ["images.set"], "probes": probes} | keys
        return bandlens.run(bandlens.Study("s", folder=tmp_path, **given), tmp_path / "r.duckdb", analyze=False)

    return run


def refusal(function: str) -> str:
    return (
        f"^{function} computes other predictions than those that are stored of its version .8 of 8 images of .*; give"
    )


def test_a_probe_that_changed_under_its_version_is_refused(run: Run, tmp_path: Path) -> None:
    table = {"function": darken, "version": "checked"}
    assert [run(table).ran, run(table).ran] == [2, 0]
    Level.factor = 0.5
    with pytest.raises(bandlens.UsageError, match=refusal("probe darken")):
        run(table)
    assert run({"function": darken, "version": "checked again"}).ran == 1, "the clean cell is that of the other study"
    assert ask(tmp_path / "r.duckdb", "SELECT count(*) FROM prediction") == [(3 * COUNT,)]


def test_predictions_of_a_smaller_limit_are_compared_too(run: Run) -> None:
    table = {"function": darken, "version": "limited"}
    run(table, limit=10)
    Level.factor = 0.5
    with pytest.raises(bandlens.UsageError, match=refusal("probe darken")):
        run(table, limit=15)
    Level.factor = 1.0
    assert run(table, limit=15).predictions == 2 * 5


def test_without_a_version_predictions_belong_to_the_study(run: Run, tmp_path: Path) -> None:
    assert [run(darken).ran, run(darken).ran] == [2, 1]
    study = bandlens.Study("s", ["one"], ["images.set"], probes={"darken": darken}, models="models", folder=tmp_path)
    databases = [tmp_path / "r.duckdb"] * 2
    assert [bandlens.run(study, database, analyze=False).ran for database in databases] == [1, 0]
    Level.factor = 0.5
    with pytest.raises(bandlens.UsageError, match=refusal("probe darken")):
        bandlens.run(replace(study, name="t"), tmp_path / "r.duckdb", analyze=False)


@pytest.mark.parametrize("version", ["checked", None])
def test_a_model_that_changed_under_its_version_is_refused(run: Run, tmp_path: Path, version: str | None) -> None:
    bandlens.export_function(shades, "shades", version, image_size=128, out=tmp_path / "functions")
    keys: dict[str, Any] = {"models": "functions", "checkpoints": ["shades"]}
    assert [run(None, **keys).ran, run(None, **keys).ran] == [2, 0]
    Level.factor = 100
    with pytest.raises(bandlens.UsageError, match=refusal("function shades")):
        run(None, **keys)
    bandlens.export_function(shades, "shades", version and "new", image_size=128, out=tmp_path / "functions")
    assert run(None, **keys).ran == 2


def test_a_function_that_fails_by_now_leaves_what_is_stored(run: Run) -> None:
    table = {"function": darken, "version": "failing"}
    run(table, limit=10)
    Level.factor = np.nan
    with pytest.raises(bandlens.BandlensError, match=r"1 of 2 cells failed, the first: .* returned NaN or infinity"):
        run(table)
